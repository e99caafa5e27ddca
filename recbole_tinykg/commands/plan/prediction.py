"""Predicted memory: the loop, the loss, backward and the optimizer's step, without their numbers.

The trainer's own loop runs on one batch inside a `Simulation`. A step begins and ends where
`phases.StepMeter` has it begin and end: from the loss function's call until the optimizer is about
to step. The optimizer's step is simulated too, as it makes the optimizer's state. Afterwards
parameters, optimizer and random state are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from recbole.trainer import Trainer

from recbole_tinykg.checkpoint import module_state, random_state
from recbole_tinykg.commands.plan.memory import Memory, StepMemory
from recbole_tinykg.commands.plan.steps import FirstSteps, OneBatch, first_steps
from recbole_tinykg.memory.meter import SavedTensors, optimizer_bytes, resident_bytes, saved_tensors
from recbole_tinykg.memory.simulation import CUDA_BLOCK_BYTES, Simulation
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.model import is_tiny
from recbole_tinykg.quick_start import Experiment
from recbole_tinykg.trainer.loop import train_pass


def predicted(experiment: Experiment, bits: int | Mapping[str, int] | None = None) -> Memory:
    """The memory of a training, without training.

    Args:
        experiment: Model and data; left as they are.
        bits: Of a twin's activations, or of each stored map; None: as the model has them.

    Raises:
        SimulationError: The memory of a step depends on values.
    """
    model = experiment.model
    generators = random_state.generators(train=experiment.train_data)
    states = {name: generator.get_state() for name, generator in generators.items()}
    trainer = first_steps(_SimulatedSteps, experiment.config, model)
    was_training = model.training
    try:
        with random_state.preserved(), nullcontext() if bits is None else model.compression(bits):
            trainer.take(experiment.train_data)
    finally:
        model.train(was_training)
        for name, generator in generators.items():
            generator.set_state(states[name])
    state_bytes = optimizer_bytes(trainer.optimizer)
    return Memory(
        **resident_bytes(model),
        optimizer_bytes=state_bytes,
        phases=trainer.steps,
        refresh_peak_bytes=trainer.refresh_peak_bytes,
    )


class _Stepped(Exception):
    """The optimizer has stepped: there is nothing more to see."""


class _SimulatedSteps(FirstSteps):
    """Simulates the first step of each phase."""

    def __init__(self, config: Any, model: Any) -> None:
        """Begin without steps."""
        super().__init__(config, model)
        self.steps: dict[str, StepMemory] = {}
        self.refresh_peak_bytes = 0
        is_cuda = self.device.type == "cuda"
        self._simulation = Simulation(CUDA_BLOCK_BYTES if is_cuda else 1)
        self._simulation.forget(*model.parameters())

    def take_step(self, phase: str, batches: OneBatch, loss_func: LossFunction) -> None:
        """Simulate a step."""
        loss_func = self._compressed.wrap(loss_func) if self._compressed else loss_func
        simulation = self._simulation
        saved: list[SavedTensors] = []

        def watched(interaction: Any) -> Any:
            simulation.start()
            with saved_tensors(self.model, interaction) as tensors, simulation.unknown_is_refused():
                saved.append(tensors)
                return loss_func(interaction)

        run = train_pass if is_tiny(type(self.model)) else Trainer._train_epoch
        with self._undone(simulation), simulation, simulation.unknown_is_zero():
            run(self, batches, 0, watched, False)
        self.steps[phase] = StepMemory(saved[0].num_bytes, simulation.peak_bytes)

    def take_refresh(self, refresh: Callable[[], None]) -> None:
        """Simulate KGAT's refresh."""
        with module_state.preserved(self.model), self._simulation as simulation:
            simulation.start()
            refresh()
            simulation.stop()
        self.refresh_peak_bytes = simulation.peak_bytes

    @contextmanager
    def _undone(self, simulation: Simulation) -> Iterator[None]:
        """End the block with the optimizer's step, and puts the model back."""
        with ExitStack() as stack:
            stack.enter_context(random_state.preserved())
            stack.enter_context(module_state.preserved(self.model))
            for register, hook in (
                (self.optimizer.register_step_pre_hook, simulation.stop),
                (self.optimizer.register_step_post_hook, _stop_loop),
            ):
                stack.callback(register(_ignoring_arguments(hook)).remove)
            stack.callback(self.optimizer.zero_grad)
            try:
                yield
            except _Stepped:
                pass


def _stop_loop() -> None:
    raise _Stepped


def _ignoring_arguments(function: Callable[[], None]) -> Callable[..., None]:
    return lambda *_: function()
