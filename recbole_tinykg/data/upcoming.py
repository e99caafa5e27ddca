"""Peeks at the batches that a loader will give next."""

from __future__ import annotations

import itertools
from typing import Any

from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState

from recbole_tinykg.checkpoint import random_state

_WITH_INTERACTIONS = (KGDataLoaderState.RS, KGDataLoaderState.RSKG)


def upcoming_batches(loader: Any, count: int) -> list[Interaction]:
    """Return the next batches with interactions, which the loader will give again.

    Neither the loader's state nor any random number changes.
    """
    state = getattr(loader, "state", None)
    other_state = hasattr(loader, "set_mode") and state not in _WITH_INTERACTIONS
    try:
        with random_state.preserved(loader):
            if other_state:
                loader.set_mode(KGDataLoaderState.RS)
            return list(itertools.islice(loader, count))
    finally:
        if other_state:
            loader.state = state
