"""The memory of a training step, found by running its code without its numbers.

    simulation = Simulation()
    simulation.forget(*model.parameters())  # their values, and all that is computed from them
    with simulation:
        simulation.start()
        loss = model(batch)
        loss.backward()
    simulation.peak_bytes

A dispatch mode sees every PyTorch operator while the model's own code runs, forward and backward.
An operator that reads *unknown* values is not run: its shape rule makes results that have shape,
type and strides, and a *fake storage*, which is counted but has no memory behind it. All other
operators run, so that whatever decides shapes (indices, counts, sorted relations, dropped edges) is
right. Python, autograd and saved-tensor hooks hold tensors on fake storages exactly as long as they
would hold real ones, so their bytes, summed over time, are the step's: there is no formula per
model, and nothing to keep up to date with the code.

* `mode`: the dispatch mode: which operator runs and which does not;
* `fake_storage`: tensors whose values are unknown, and storages without memory;
* `allocations`: the running sum of bytes and its highest value;
* `workspace`: what kernels allocate and free inside one call, unseen by a mode;
* `sparse`: operators on sparse tensors, which have no shape rules;
* `operators`: what PyTorch knows about its operators;
* `read_guard`: refuses what reads unknown values.

A step whose shapes depend on unknown values, such as `x[x > 0]`, is refused: `SimulationError`.
"""

from recbole_tinykg.memory.simulation.mode import CUDA_BLOCK_BYTES, Simulation
from recbole_tinykg.memory.simulation.read_guard import SimulationError

__all__ = ["CUDA_BLOCK_BYTES", "Simulation", "SimulationError"]
