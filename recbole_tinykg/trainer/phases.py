"""Bytes and seconds of the phases of an epoch, as the trainer meets them.

RecBole's knowledge trainers run an epoch as up to two passes, each over its own loss: `rs`
(recommendation) and `kg` (knowledge graph), and some do more beside them, such as KGAT's refresh
of its attention. Bytes are measured on the first step of each phase, seconds in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_tinykg.memory.step_meter import LossFunction

PHASES = {"rs": "recommendation", "kg": "knowledge graph"}
"""What people call the phases of an epoch, in their order."""


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
        """Start without epochs."""
        self.epochs: list[dict[str, float]] = []
        self.evaluations: list[float] = []
        self._device = device
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a phase of the running epoch."""
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


class WholeEpoch(Trainer):
    """Sits above the stock model's trainer, where one call is one epoch with all its passes."""

    _clock: EpochClock

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: LossFunction | None = None,
        show_progress: bool = False,
    ) -> Any:
        with self._clock.epoch():
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
