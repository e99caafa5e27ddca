"""The memory of a training step, found by running its code without its numbers.

    simulation = Simulation()
    simulation.forget(*model.parameters())      # their values, and whatever is computed from them
    with simulation:
        simulation.start()
        loss = model(batch)
        loss.backward()
    simulation.peak_bytes

A dispatch mode stands under PyTorch's operators while the model's own code runs, forward and
backward. A tensor whose values are forgotten is *hollow*: shape, type, strides and a storage that
is counted, with no memory behind it. An operator that reads a hollow tensor is not run: its shape
rule makes hollow results. All other operators run, so that what decides shapes (indices, counts,
sorted relations, dropped edges) is right. Python, autograd and saved-tensor hooks hold hollow
tensors exactly as long as they would hold real ones, so their bytes, summed over time, are the
step's: no formula per model, and nothing to keep in step with the code.

* `ledger`: the running sum of bytes and its highest value;
* `hollow`: tensors without memory;
* `workspace`: what kernels allocate inside, unseen by a mode;
* `sparse`: operators with sparse tensors, which have no shape rules;
* `operators`: what PyTorch says about its operators;
* `mode`: which operator runs and which does not; `guard`: what is refused.

A step whose shapes depend on forgotten values, such as `x[x > 0]`, is refused: `SimulationError`.
"""

from recbole_tinykg.memory.simulation.mode import CUDA_BLOCK_BYTES, Simulation
from recbole_tinykg.memory.simulation.read_guard import SimulationError

__all__ = ["CUDA_BLOCK_BYTES", "Simulation", "SimulationError"]
