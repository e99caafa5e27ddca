"""One optimizer step on a batch, and the sum of the losses of a pass.

Order of operations, mixed precision and gradient clipping are those of RecBole's loop. What a step
leaves behind (sums, a flag for NaN) is written in place and stays on the device, so that a step
waits for nothing and can be replayed as a CUDA graph.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from recbole_tinykg.errors import DivergenceError
from recbole_tinykg.memory.step_meter import LossFunction

CHECK_INTERVAL = 64
"""Steps that a GPU may take before a NaN is noticed."""


class LossSum:
    """Sums the losses of a pass, or each of their parts, and watches for NaN.

    The sums are float64, as Python's are.

    Args:
        checks_every_loss: Whether each loss is read and checked before its gradients are computed,
            as in RecBole's loop: on a CPU, where that is free. Otherwise one in `CHECK_INTERVAL`
            steps reads whether any loss was NaN.
    """

    def __init__(self, *, checks_every_loss: bool) -> None:
        self._checks_every_loss = checks_every_loss
        self._sums: list[Tensor] = []
        self._is_nan: Tensor | None = None
        self._is_tuple = False
        self._num_steps = 0

    def restart(self) -> None:
        """Begin a pass, in the memory of the one before."""
        self._num_steps = 0
        for number in (*self._sums, *(() if self._is_nan is None else (self._is_nan,))):
            number.zero_()

    def add(self, losses: Tensor | tuple[Tensor, ...]) -> Tensor:  # (), or (1,) for some models
        """Add a step's loss, or its parts, and return the loss to differentiate.

        Raises:
            DivergenceError: The loss is NaN, if every loss is checked.
        """
        self._is_tuple = isinstance(losses, tuple)
        parts = losses if isinstance(losses, tuple) else (losses,)
        loss = functools.reduce(operator.add, parts)
        is_nan = torch.isnan(loss.detach()).reshape(())
        numbers = [part.detach().double().reshape(()) for part in parts]
        if self._is_nan is None:
            self._is_nan = torch.zeros_like(is_nan)
            self._sums = [torch.zeros_like(number) for number in numbers]
        self._is_nan.logical_or_(is_nan)
        for total, number in zip(self._sums, numbers, strict=True):
            total.add_(number)
        if self._checks_every_loss:
            self._check()
        return loss

    def end_step(self) -> None:
        """Count a step, and once in `CHECK_INTERVAL` steps look for a NaN, if not every loss is.

        Raises:
            DivergenceError: One of the losses was NaN.
        """
        self._num_steps += 1
        if not self._checks_every_loss and self._num_steps % CHECK_INTERVAL == 0:
            self._check()

    def total(self) -> float | tuple[float, ...] | None:
        """Return the sum over the pass, a tuple if the losses were; None without a step.

        Raises:
            DivergenceError: A loss was NaN.
        """
        if self._num_steps == 0:
            return None
        self._check()
        sums = tuple(part.item() for part in self._sums)
        return sums if self._is_tuple else sums[0]

    def _check(self) -> None:
        if self._is_nan is not None and self._is_nan:
            raise DivergenceError


class TrainingStep:
    """Forward, backward, clipping and the optimizer's update, as a trainer has them set.

    Args:
        trainer: RecBole's trainer: model, optimizer, device and settings.
        loss_func: From a batch to a loss, or to a tuple of losses to add.
        losses: Where to add the loss of each step.
    """

    def __init__(self, trainer: Any, loss_func: LossFunction, losses: LossSum) -> None:
        self._model, self._optimizer = trainer.model, trainer.optimizer
        self._loss_func, self._losses = loss_func, losses
        self._clip_grad_norm = trainer.clip_grad_norm
        self._device_type, self._enable_amp = trainer.device.type, trainer.enable_amp
        self._scaler = torch.amp.GradScaler(self._device_type, enabled=trainer.enable_scaler)

    def __call__(self, batch: Interaction) -> None:
        """Take a step on a batch that lies on the device.

        Raises:
            DivergenceError: The loss is NaN, if every loss is checked.
        """
        self._optimizer.zero_grad()
        with torch.autocast(self._device_type, enabled=self._enable_amp):
            parts = self._loss_func(batch)
        loss = self._losses.add(parts)
        self._scaler.scale(loss).backward()
        if self._clip_grad_norm:
            clip_grad_norm_(self._model.parameters(), **self._clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
