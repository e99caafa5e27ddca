"""The bytes of one training step, measured while a training loop makes it (`meter`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch

from recbole_tinykg.checkpoint import module_state, random_state
from recbole_tinykg.memory.meter import PeakBytes, SavedTensors, peak_bytes, saved_tensors

LossFunction = Callable[[Any], Any]
"""From a batch to a loss, or to a tuple of losses."""


class StepMeter:
    """Measures the first training step that calls `loss_func`, and no other.

    The step begins when the loss function is called and ends when the optimizer is about to step::

        with StepMeter(model, optimizer, device, model.calculate_loss) as meter:
            train_epoch(meter.loss_func)
        meter.result

    With `compression(bits)`, the model's own or the argument, forward runs once more at 32 bits to
    count what float32 would save. It keeps nothing, and puts random state and model back.

    Args:
        model, optimizer, device: Those of the training loop.
        loss_func: What the loop calls; the meter's `loss_func`, of the same name, takes its place.
        compression: A block in which the model compresses to some bits; None: the model's method
            of that name, if it has one.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        loss_func: LossFunction,
        compression: Callable[[int], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._compression = compression or getattr(model, "compression", None)
        self._model, self._optimizer, self._device = model, optimizer, device
        self._loss_func = loss_func
        self.loss_func = self._watching(loss_func)
        self._region = ExitStack()
        self._saved: SavedTensors | None = None
        self._float32_saved: SavedTensors | None = None
        self._peak = PeakBytes()

    def __enter__(self) -> StepMeter:
        self._hook = self._optimizer.register_step_pre_hook(lambda *_: self._region.close())
        return self

    def __exit__(self, *_: object) -> None:
        self._region.close()  # open if the step failed
        self._hook.remove()

    @property
    def result(self) -> dict[str, int | None]:
        """Bytes of the step by name; empty before it.

        `saved_activation_bytes`; `float32_saved_activation_bytes`, the same number for a stock
        model; `peak_bytes`, None if another profiler was running.
        """
        if self._saved is None:
            return {}
        return {
            "saved_activation_bytes": self._saved.num_bytes,
            "float32_saved_activation_bytes": (self._float32_saved or self._saved).num_bytes,
            "peak_bytes": self._peak.num_bytes,
        }

    def _watching(self, loss_func: LossFunction) -> LossFunction:
        @functools.wraps(loss_func)
        def watched(interaction: Any) -> Any:
            return self._call(interaction)

        return watched

    def _call(self, interaction: Any) -> Any:
        """Call the wrapped loss function, and measure the first call."""
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
            random_state.undisturbed(),  # by a thread that draws batches ahead
            random_state.preserved(),
            module_state.preserved(self._model),
            compression,
            saved_tensors(self._model, interaction, keep=False) as saved,
        ):
            losses = self._loss_func(interaction)
        del losses
        return saved
