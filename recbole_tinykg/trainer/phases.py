"""Bytes and seconds of the phases of an epoch, as the trainer meets them.

RecBole's knowledge trainers run an epoch as up to two passes, each over its own loss: ``rs``
(recommendation) and ``kg`` (knowledge graph), and some do more beside them, such as KGAT's refresh
of its attention. Bytes are measured on the first step of each phase, seconds in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from time import perf_counter
from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_tinykg import module_state, random_state
from recbole_tinykg.meter import PeakBytes, SavedTensors, peak_bytes, saved_tensors

PHASES = ("rs", "kg")

LossFunction = Callable[[Any], Any]
"""From a batch to a loss, or to a tuple of losses."""


def phase_of(loss_func: LossFunction) -> str:
    """Returns ``kg`` for a model's ``calculate_kg_loss`` and ``rs`` for any other loss."""
    return "kg" if getattr(loss_func, "__name__", "") == "calculate_kg_loss" else "rs"


class EpochClock:
    """Seconds of every epoch by phase; on CUDA the device has finished when the clock is read.

    Attributes:
        epochs: Per epoch ``rs`` and ``kg`` (0 without such a pass), ``refresh`` (what belongs to
            neither, such as KGAT's attention) and ``total``.
        evaluations: Of every evaluation.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts without epochs."""
        self.epochs: list[dict[str, float]] = []
        self.evaluations: list[float] = []
        self._device = device
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to a phase of the running epoch."""
        start = self._now()
        yield
        self._seconds[name] += self._now() - start

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Appends the seconds of the block, with those of the phases inside, to ``epochs``."""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        start = self._now()
        yield
        total = self._now() - start
        refresh = total - sum(self._seconds.values())
        self.epochs.append({**self._seconds, "refresh": refresh, "total": total})

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Appends the seconds of the block to ``evaluations``."""
        start = self._now()
        yield
        self.evaluations.append(self._now() - start)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter()


class WholeEpoch(Trainer):
    """Sits above the host's trainer, where one call is one epoch with all its passes."""

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


class StepMeter:
    """Measures the first training step that goes through ``loss_func``, then steps aside.

    The step begins when the loss function is called and ends when the optimizer is about to step::

        with StepMeter(model, optimizer, device, model.calculate_loss) as meter:
            train_epoch(meter.loss_func)
        meter.result

    With ``compression(bits)``, the model's or the argument, the forward runs once more at 32 bits,
    keeping nothing and with the random state and the model's own put back, so that its saved bytes
    can be compared with float32's.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        loss_func: LossFunction,
        compression: Callable[[int], AbstractContextManager[None]] | None = None,
    ) -> None:
        """Wraps ``loss_func``; the other arguments are those of the training loop."""
        self._compression = compression or getattr(model, "compression", None)
        self._model, self._optimizer, self._device = model, optimizer, device
        self._loss_func = loss_func
        self._region = ExitStack()
        self._saved: SavedTensors | None = None
        self._float32_saved: SavedTensors | None = None
        self._peak = PeakBytes()

    def __enter__(self) -> StepMeter:
        """Watches the optimizer."""
        self._hook = self._optimizer.register_step_pre_hook(lambda *_: self._region.close())
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the optimizer alone, and ends a step that failed."""
        self._region.close()
        self._hook.remove()

    @property
    def result(self) -> dict[str, int | None]:
        """Bytes of the step, empty before it.

        ``saved_activation_bytes``; ``float32_saved_activation_bytes``, the same number for a stock
        model; ``peak_bytes``, None if another profiler was running.
        """
        if self._saved is None:
            return {}
        return {
            "saved_activation_bytes": self._saved.num_bytes,
            "float32_saved_activation_bytes": (self._float32_saved or self._saved).num_bytes,
            "peak_bytes": self._peak.num_bytes,
        }

    def loss_func(self, interaction: Any) -> Any:
        """Calls the wrapped loss function; measures the first call."""
        self._region.close()  # open only if a gradient scaler skipped the optimizer's first step
        if self._saved is not None:
            return self._loss_func(interaction)
        if self._compression is not None:
            self._float32_saved = self._count(interaction, self._compression(32))
        self._peak = self._region.enter_context(peak_bytes(self._device))
        with saved_tensors(self._model, interaction) as self._saved:
            return self._loss_func(interaction)  # held by the caller while the block ends

    def _count(self, interaction: Any, compression: AbstractContextManager[None]) -> SavedTensors:
        with (
            random_state.preserved(),
            module_state.preserved(self._model),
            compression,
            saved_tensors(self._model, interaction, keep=False) as saved,
        ):
            losses = self._loss_func(interaction)
        del losses
        return saved
