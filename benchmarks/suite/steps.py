"""Seconds of a training step on a GPU: many steps of one pass, over batches drawn beforehand.

A GPU works behind the program's back, so a clock read around one step measures its launches, or
forces a wait that training does not have. Here a trainer's own pass takes `NUM_STEPS` steps over a
few batches again and again, and the clock is read before the first and when the GPU has finished
the last. What the trainer does around its steps, such as replaying them as a CUDA graph, is in it;
the loader is not. Batches are a phase's first, which have the full size; those of a twin lie in
pinned memory, where its trainer puts the batches that it draws ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import torch
from recbole.data.interaction import Interaction

from benchmarks.suite.cases import Case
from benchmarks.suite.variants import Variant
from recbole_tinykg.model import is_tiny
from recbole_tinykg.trainer import TinyTrainer

NUM_BATCHES = 4
NUM_STEPS = 50
WARM_UP_STEPS = 6


class RepeatedBatches:
    """A loader whose first batches come again and again, as often as a pass is to have steps."""

    def __init__(self, loader: Any, num_steps: int) -> None:
        """Draw the batches of the loader's present mode."""
        self._loader, self._num_steps = loader, num_steps
        self._batches = list(islice(loader, NUM_BATCHES))

    def pin(self) -> None:
        """Move the batches into memory from which a GPU copies without waiting."""
        self._batches = [
            Interaction({name: column.pin_memory() for name, column in batch.interaction.items()})
            for batch in self._batches
        ]

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loader's."""
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches in turn."""
        return islice(cycle(self._batches), self._num_steps)

    def __len__(self) -> int:
        """Return the steps of the pass."""
        return self._num_steps


def phases_of(case: Case, model: Any) -> dict[str, tuple[Any, Any]]:
    """Return the loader's mode and the loss of the phases that a model has."""
    return {
        phase: (mode, getattr(model, name))
        for phase, (mode, name) in case.phases.items()
        if hasattr(model, name)
    }


def drawn(experiment: Any, mode: Any, num_steps: int) -> RepeatedBatches:
    """Return the batches of a pass of some steps."""
    experiment.train_data.set_mode(mode)
    batches, model = RepeatedBatches(experiment.train_data, num_steps), experiment.model
    if model.device.type == "cuda" and is_tiny(type(model)):
        batches.pin()
    return batches


def take_steps(experiment: Any, batches: RepeatedBatches, loss: Any) -> None:
    """Train on the batches, in one pass of the model's trainer."""
    TinyTrainer._train_epoch(experiment.trainer, batches, 0, loss)


def step_seconds(
    case: Case, variant: Variant, experiment: Any, num_steps: int = NUM_STEPS
) -> dict[str, float]:
    """Return `step_rs` and `step_kg`, as far as the model has the phases."""
    seconds, model = {}, experiment.model
    with variant.applied(model):
        for phase, (mode, loss) in phases_of(case, model).items():
            batches = drawn(experiment, mode, num_steps)
            start = now(model.device)
            take_steps(experiment, batches, loss)
            seconds[f"step_{phase}"] = (now(model.device) - start) / num_steps
    return seconds


def now(device: torch.device) -> float:
    """Return the clock, after all that the device has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
