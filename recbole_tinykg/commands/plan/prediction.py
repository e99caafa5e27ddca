"""Predicted memory: the loop, the loss, backward and the optimizer's step, without their numbers.

The trainer's own loop runs on one batch inside a `Simulation`. A step is what `StepMeter` measures
in training: from the call of the loss function until the optimizer is about to step. The
optimizer's step is simulated too, because it creates the optimizer's state. Afterwards parameters,
optimizer and random state are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.trainer import Trainer
from torch import Tensor

from recbole_tinykg.checkpoint import module_state, random_state
from recbole_tinykg.commands.plan.memory import Memory, StepMemory
from recbole_tinykg.commands.plan.steps import FirstSteps, OneBatch, first_steps
from recbole_tinykg.config import Config
from recbole_tinykg.memory.meter import SavedTensors, optimizer_bytes, resident_bytes, saved_tensors
from recbole_tinykg.memory.simulation import CUDA_BLOCK_BYTES, Simulation
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.model import is_tiny
from recbole_tinykg.quick_start import Experiment
from recbole_tinykg.trainer.loop import train_pass


def predict(experiment: Experiment, bits: int | Mapping[str, int] | None = None) -> Memory:
    """Return the memory of a training, without training.

    Args:
        experiment: Model and data; left as they are.
        bits: Those of a twin's activations, or of each stored map; None: the model's own.

    Raises:
        SimulationError: The memory of a step depends on values.
    """
    model = experiment.model
    trainer = first_steps(_SimulatedSteps, experiment.config, model)
    was_training = model.training
    try:
        compression = nullcontext() if bits is None else model.compression(bits)
        with random_state.preserved(experiment.train_data), compression:
            trainer.take(experiment.train_data)
    finally:
        model.train(was_training)
    return Memory(
        **resident_bytes(model),
        optimizer_bytes=optimizer_bytes(trainer.optimizer),
        phases=trainer.steps,
        refresh_peak_bytes=trainer.refresh_peak_bytes,
    )


class _Stepped(Exception):
    """Ends the loop once the optimizer has stepped."""


class _SimulatedSteps(FirstSteps):
    """Simulates the first step of each phase."""

    def __init__(self, config: Config, model: AbstractRecommender) -> None:
        super().__init__(config, model)
        self.steps: dict[str, StepMemory] = {}
        self.refresh_peak_bytes = 0
        is_cuda = self.device.type == "cuda"
        self._simulation = Simulation(CUDA_BLOCK_BYTES if is_cuda else 1)
        self._simulation.forget(*model.parameters())

    def take_step(self, phase: str, batches: OneBatch, loss_func: LossFunction) -> None:
        loss_func = self._compressed.wrap(loss_func) if self._compressed else loss_func
        simulation = self._simulation
        saved: list[SavedTensors] = []

        def watched(interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
            simulation.start()
            with saved_tensors(self.model, interaction) as tensors, simulation.unknown_is_refused():
                saved.append(tensors)
                return loss_func(interaction)

        run = train_pass if is_tiny(type(self.model)) else Trainer._train_epoch
        with self._undo(), simulation, simulation.unknown_is_zero():
            run(self, batches, 0, watched, False)
        self.steps[phase] = StepMemory(saved[0].num_bytes, simulation.peak_bytes)

    def take_refresh(self, refresh: Callable[[], None]) -> None:
        with module_state.preserved(self.model), self._simulation as simulation:
            simulation.start()
            refresh()
            simulation.stop()
        self.refresh_peak_bytes = simulation.peak_bytes

    @contextmanager
    def _undo(self) -> Iterator[None]:
        """End the block with the optimizer's step, and put the model back."""
        stop = self.optimizer.register_step_pre_hook(lambda *_: self._simulation.stop())
        end = self.optimizer.register_step_post_hook(_end_loop)
        with random_state.preserved(), module_state.preserved(self.model), stop, end:
            try:
                yield
            except _Stepped:
                pass
            finally:
                self.optimizer.zero_grad()


def _end_loop(*_: object) -> None:
    raise _Stepped
