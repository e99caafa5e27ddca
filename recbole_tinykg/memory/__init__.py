"""What a training step costs in memory: measured, or predicted without running it.

* `meter`: bytes that autograd keeps, peak bytes, resident bytes;
* `step_meter`: the first two of these, of the first step of a training loop;
* `simulation/`: a step's own code on tensors without memory, from which `plan` predicts;
* `byte_sizes`: bytes as people write them.
"""
