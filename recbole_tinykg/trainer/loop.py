"""One pass over the batches of a twin, without waiting for the device in every step.

RecBole's loop reads each step's loss as a Python number and checks it for NaN. On a GPU either one
waits until the step is done, and only then is the next step prepared. Here the losses are summed on
the device, in float64 as Python does, which gives the same number, and a GPU is checked for NaN now
and then (`step`). On a GPU batches are drawn ahead (`data.prefetch`), and most steps are replays of
a CUDA graph (`cuda_graphs`).

Batches are those of RecBole's loop, and so is what a step does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState, get_gpu_usage, set_color
from torch import nn

from recbole_tinykg.data.prefetch import drawn_ahead, on_device
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.model import stock_name_of
from recbole_tinykg.trainer.progress import Progress
from recbole_tinykg.trainer.step import LossSum, TrainingStep

_READS_NO_TRIPLES = frozenset("KGCN KGNNLS KGIN RippleNet MCCLK".split())
"""Stock models whose loss reads interactions only."""


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
    trainer.model.train()
    graphs = getattr(trainer, "step_graphs", None)
    steps = graphs.begin_pass(loss_func) if graphs else _Steps(trainer, loss_func)
    with _batches(train_data, trainer) as batches:
        for batch in _with_progress_bar(batches, trainer, train_data) if show_progress else batches:
            steps.take(batch)
    return steps.losses.total()


def _batches(train_data: Any, trainer: Any) -> AbstractContextManager[Iterable[Interaction]]:
    """Return the batches of a pass: on a GPU drawn ahead, into pinned memory."""
    if trainer.device.type != "cuda":
        return nullcontext(train_data)
    return drawn_ahead(train_data, trainer.model, pin=True)


class _Steps:
    """Takes the steps of a pass, one by one."""

    def __init__(self, trainer: Any, loss_func: LossFunction) -> None:
        self._device = trainer.device
        self.losses = LossSum(checks_every_loss=self._device.type == "cpu")
        self._step = TrainingStep(trainer, loss_func, self.losses)

    def take(self, batch: Interaction) -> None:
        self._step(on_device(batch, self._device))
        self.losses.end_step()


def _with_progress_bar(
    batches: Iterable[Interaction], trainer: Any, train_data: Any
) -> Iterator[Interaction]:
    bar = Progress(batches, trainer.doing, len(train_data))
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
