"""What a training step costs in memory: measured, or predicted without running it.

* `meter`: bytes that autograd keeps, peak bytes, resident bytes;
* `step_meter`: the meter around one step of a trainer;
* `simulation/`: a step's own code on tensors without memory, which `plan` predicts from;
* `byte_sizes`: bytes as people write them.
"""
