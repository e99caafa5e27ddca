"""Bytes and seconds of the phases of an epoch, as the trainer meets them.

RecBole's knowledge trainers run an epoch as up to two passes, each over a loss of its own: `rs`
(recommendation) and `kg` (knowledge graph). Some do more, such as KGAT's, which refreshes the
attention. Bytes are measured on the first step of each phase, seconds in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any

import torch
from recbole.trainer import Trainer
from torch import nn

from recbole_tinykg.memory.meter import optimizer_bytes, resident_bytes
from recbole_tinykg.memory.step_meter import LossFunction, StepMeter

PHASES = {"rs": "recommendation", "kg": "knowledge graph"}
"""Names of the phases of an epoch as shown to users, in order."""


def phase_of(loss_func: LossFunction) -> str:
    """Return `kg` for a model's `calculate_kg_loss` and `rs` for any other loss."""
    return "kg" if getattr(loss_func, "__name__", "") == "calculate_kg_loss" else "rs"


class EpochClock:
    """Seconds of every epoch by phase; on CUDA the device has finished when the clock is read.

    Attributes:
        epochs: Per epoch `rs` and `kg` (0 without such a pass), `refresh` (what belongs to
            neither, such as KGAT's attention) and `total`.
        evaluations: Of every evaluation.
    """

    def __init__(self, device: torch.device) -> None:
        self.epochs: list[dict[str, float]] = []
        self.evaluations: list[float] = []
        self._device = device
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a phase of the current epoch."""
        start = self._now()
        yield
        self._seconds[name] += self._now() - start

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Append the seconds of the block, with those of the phases inside, to `epochs`."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        start = self._now()
        yield
        total = self._now() - start
        refresh = total - sum(self._seconds.values())
        self.epochs.append({**self._seconds, "refresh": refresh, "total": total})

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Append the seconds of the block to `evaluations`."""
        start = self._now()
        yield
        self.evaluations.append(self._now() - start)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter()


class Measurements:
    """What a trainer measures: seconds, bytes of a step, bytes that stay between steps.

    Attributes:
        clock: Seconds of epochs, phases and evaluations.
        phase_bytes: Bytes of a step by phase, as `StepMeter.result`.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.clock = EpochClock(device)
        self.phase_bytes: dict[str, dict[str, int | None]] = {}
        self._model, self._device = model, device
        self._resident_bytes: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a pass; before the first one, note what the model holds between steps."""
        self._resident_bytes = self._resident_bytes or resident_bytes(self._model)
        with self.clock.phase(name):
            yield

    @contextmanager
    def first_step(
        self,
        phase: str,
        loss_func: LossFunction,
        optimizer: torch.optim.Optimizer,
        compression: Callable[[int], AbstractContextManager[None]] | None = None,
    ) -> Iterator[LossFunction]:
        """Yield `loss_func`, in a `StepMeter` until a step of the phase has been measured."""
        if phase in self.phase_bytes:
            yield loss_func
            return
        with StepMeter(self._model, optimizer, self._device, loss_func, compression) as meter:
            yield meter.loss_func
        if meter.result:
            self.phase_bytes[phase] = meter.result

    def memory(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return `phase_bytes`, and the bytes that model and optimizer hold between steps."""
        resident = self._resident_bytes or resident_bytes(self._model)
        return {**self.phase_bytes, **resident, "optimizer_bytes": optimizer_bytes(optimizer)}


class WholeEpoch(Trainer):
    """Times whole epochs; it stands above the stock model's trainer in `trainer_class`.

    It is a class because RecBole's `fit` has no other hook: it calls `_train_epoch`, which the
    stock trainer overrides to make its passes, and `TinyTrainer`, below it, sees only those.
    """

    _measurements: Measurements

    def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        with self._measurements.clock.epoch():
            return super()._train_epoch(*args, **kwargs)
