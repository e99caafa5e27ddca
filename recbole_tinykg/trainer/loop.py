"""One pass over the batches of a twin, without waiting for the device in every step.

RecBole's loop reads each step's loss as a Python number and checks it for NaN. On a GPU either one
waits until the step is done, and only then is the next step prepared. Here the losses are summed on
the device, in float64 as Python does, which gives the same number, and a GPU is checked for NaN
once in `CHECK_INTERVAL` steps and when the pass ends. On a CPU, where the check is free, every loss
is checked before its gradients are computed, as in RecBole's loop.

Batches, order of operations, mixed precision and gradient clipping are those of RecBole's loop.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState, get_gpu_usage, set_color
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from recbole_tinykg.errors import DivergenceError
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.model import stock_name_of
from recbole_tinykg.trainer.progress import Progress

CHECK_INTERVAL = 64  # steps that a GPU may take before a NaN is noticed

_READS_NO_TRIPLES = frozenset("KGCN KGNNLS KGIN RippleNet MCCLK".split())
"""Stock models whose loss reads interactions only."""


class LossSum:
    """Sums the losses of a pass, or each of their parts, and watches for NaN."""

    def __init__(self, device: torch.device) -> None:
        self._interval = 1 if device.type == "cpu" else CHECK_INTERVAL
        self._sums: list[Tensor] = []
        self._is_tuple = False
        self._is_nan: Tensor | None = None
        self._steps = 0

    def add(self, losses: Tensor | tuple[Tensor, ...]) -> Tensor:  # (), or (1,) for some models
        """Add a step's loss, or its parts, and return the loss to differentiate.

        Raises:
            DivergenceError: The loss, or on a GPU one of the last steps' losses, was NaN.
        """
        self._is_tuple = isinstance(losses, tuple)
        parts = losses if isinstance(losses, tuple) else (losses,)
        numbers = [part.detach().double().reshape(()) for part in parts]
        if self._sums:
            numbers = [a + b for a, b in zip(self._sums, numbers, strict=True)]
        self._sums = numbers
        loss = functools.reduce(operator.add, parts)
        is_nan = torch.isnan(loss.detach()).reshape(())
        self._is_nan = is_nan if self._is_nan is None else self._is_nan | is_nan
        self._steps += 1
        if self._steps % self._interval == 0:
            self._check()
        return loss

    def total(self) -> float | tuple[float, ...] | None:
        """Return the sum over the pass, a tuple if the losses were; None without a step.

        Raises:
            DivergenceError: A loss was NaN.
        """
        self._check()
        sums = tuple(part.item() for part in self._sums)
        return sums if self._is_tuple else sums[0] if sums else None

    def _check(self) -> None:
        if self._is_nan is not None and self._is_nan:
            raise DivergenceError


def train_pass(
    trainer: Any, train_data: Any, epoch_idx: int, loss_func: LossFunction, show_progress: bool
) -> float | tuple[float, ...] | None:
    """Take one optimizer step per batch, and return the sum of the losses.

    Args:
        trainer: RecBole's trainer, with model, optimizer, device, settings, and the name of the
            pass, `doing`.
        train_data: Loader, in the state of the pass.
        epoch_idx: Number of the epoch.
        loss_func: From a batch to a loss, or to a tuple of losses to add.
        show_progress: Whether to draw a progress bar.

    Raises:
        DivergenceError: A loss was NaN.
    """
    model, optimizer, device = trainer.model, trainer.optimizer, trainer.device
    model.train()
    losses = LossSum(device)
    scaler = torch.amp.GradScaler(device.type, enabled=trainer.enable_scaler)
    for interaction in _with_progress_bar(train_data, trainer) if show_progress else train_data:
        optimizer.zero_grad()
        with torch.autocast(device.type, enabled=trainer.enable_amp):
            parts = loss_func(interaction.to(device))
        loss = losses.add(parts)
        scaler.scale(loss).backward()
        if trainer.clip_grad_norm:
            clip_grad_norm_(model.parameters(), **trainer.clip_grad_norm)
        scaler.step(optimizer)
        scaler.update()
    return losses.total()


def _with_progress_bar(train_data: Any, trainer: Any) -> Iterator[Interaction]:
    bar = Progress(train_data, trainer.doing, len(train_data))
    for interaction in bar:
        yield interaction
        if trainer.gpu_available and bar.on_terminal:  # the bar redraws at its own pace
            usage = set_color(f"GPU RAM: {get_gpu_usage(trainer.device)}", "yellow")
            bar.set_postfix_str(usage, refresh=False)


@contextmanager
def without_unread_triples(config: Config, model: nn.Module, train_data: Any) -> Iterator[None]:
    """Make a loader of interactions with triples leave out triples that the loss does not read.

    With `skip_unread_kg_batches`, for models whose loss reads interactions only. Triples and
    negative items are drawn from the same generator, so other negative items are drawn.
    """
    name = stock_name_of(type(model))
    joint = getattr(train_data, "state", None) == KGDataLoaderState.RSKG
    if not (config["skip_unread_kg_batches"] and joint and name in _READS_NO_TRIPLES):
        yield
        return
    train_data.set_mode(KGDataLoaderState.RS)
    try:
        yield
    finally:
        train_data.set_mode(KGDataLoaderState.RSKG)
