"""Batches of a twin's training loader, drawn ahead by a thread while the device works.

A step on a GPU may take a millisecond, and so does drawing a batch. `drawn_ahead` draws the next
few in a thread and puts their columns into pinned memory, from which a device copies without
waiting (`on_device`)::

    with drawn_ahead(loader, model, pin=device.type == "cuda") as batches:
        for batch in batches:
            losses = model.calculate_loss(on_device(batch, device))

Batches, their order, and the random state after the last one are those of the loader itself:
everything that the loader draws, from its generators and from NumPy's, is drawn by the one thread.
That is only so if nobody else draws from NumPy's generator meanwhile, hence loaders and models that
would, or that worker processes serve, are iterated as they are; and if nobody puts its state back
meanwhile, as the measured first step of a phase does, hence each draw is `undisturbed`. A pass that
ends early has drawn a few batches more than it took.

A pinned block goes back to PyTorch's pool when its tensor is gone, and the pool gives it out again
only after the copies from it have happened: PyTorch records an event for each. So no buffer is
overwritten before its copy, without a ring and events of our own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import nn

from recbole_tinykg.checkpoint import random_state
from recbole_tinykg.data.loaders import KnowledgeLoader
from recbole_tinykg.model import stock_name_of

DEPTH = 3  # batches that wait for the consumer

_DRAWS_FROM_NUMPY = frozenset({"MCCLK"})
"""Stock models whose loss draws from NumPy's generator, as the loaders do."""


@contextmanager
def drawn_ahead(
    loader: Any, model: nn.Module, *, pin: bool, depth: int = DEPTH
) -> Iterator[Iterator[Interaction]]:
    """Iterate over a loader's batches, drawn by a thread that lives as long as the block.

    Args:
        loader: A training loader, in the state of the pass.
        model: The model that is trained on them.
        pin: Whether to put them into pinned memory, which needs a CUDA device.
        depth: Most batches to be drawn ahead.

    Returns:
        The batches, on the host. What the loader raises is raised here, with its traceback.
    """
    if not may_draw_ahead(loader, model):
        yield iter(loader)
        return
    handover = _Handover(depth)
    device = torch.cuda.current_device() if pin else None
    arguments = (loader, handover, device)
    thread = threading.Thread(target=_draw, args=arguments, name="batches", daemon=True)
    thread.start()
    try:
        yield handover
    finally:
        handover.close()
        thread.join()


def may_draw_ahead(loader: Any, model: nn.Module) -> bool:
    """Check that nobody but the loader's own code draws, and that it needs no model for it."""
    if not isinstance(loader, KnowledgeLoader):
        return False
    chooses = loader.general_dataloader.neg_sample_args.get("dynamic", False)
    return not chooses and stock_name_of(type(model)) not in _DRAWS_FROM_NUMPY


def on_device(batch: Interaction, device: torch.device) -> Interaction:
    """Copy a batch to a device; from pinned memory the host does not wait for it."""
    columns = batch.interaction.items()
    return Interaction({name: x.to(device, non_blocking=True) for name, x in columns})


def _draw(loader: Any, handover: _Handover, device: int | None) -> None:
    """Give every batch of the loader, then its end or what it raised, until nobody takes them."""
    try:
        if device is not None:
            torch.cuda.set_device(device)  # a thread begins on device 0
        for batch in _undisturbed(loader):
            if not handover.give(batch if device is None else _pinned(batch)):
                return
            del batch  # while the next one is drawn, the consumer has the only reference
        handover.end(None)
    except BaseException as error:
        handover.end(error)


def _undisturbed(loader: Any) -> Iterator[Interaction]:
    """Yield the loader's batches, each drawn while no other thread puts a random state back."""
    with random_state.undisturbed():
        batches = iter(loader)
    while True:
        with random_state.undisturbed():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
        del batch


def _pinned(batch: Interaction) -> Interaction:
    return Interaction({name: x.pin_memory() for name, x in batch.interaction.items()})


class _Handover:
    """A bounded queue between one thread and its consumer, which either one may end."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._batches: deque[Interaction] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def give(self, batch: Interaction) -> bool:
        """Add a batch as soon as there is room; False if nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._batches) < self._depth)
            if not self._closed:
                self._batches.append(batch)
                self._changed.notify_all()
            return not self._closed

    def end(self, error: BaseException | None) -> None:
        """Say that there is no batch after those given, and why."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def __iter__(self) -> _Handover:
        return self

    def __next__(self) -> Interaction:
        """Take the next batch; raise the error in place of the batch that it prevented."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._ended or self._closed)
            if self._batches:
                self._changed.notify_all()
                return self._batches.popleft()
            error, self._error = self._error or StopIteration(), None
        raise error

    def close(self) -> None:
        """Take no more batches, and keep none."""
        with self._changed:
            self._closed, self._error = True, None
            self._batches.clear()
            self._changed.notify_all()
