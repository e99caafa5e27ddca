"""The batches that a loader will give next, looked at without using them up."""

from __future__ import annotations

import itertools
from typing import Any

from recbole.utils import KGDataLoaderState

from recbole_tinykg.checkpoint import random_state

_WITH_INTERACTIONS = (KGDataLoaderState.RS, KGDataLoaderState.RSKG)


def upcoming_batches(loader: Any, count: int) -> list[Any]:
    """The batches with interactions that a loader will give next.

    It gives them again: neither its state nor any random number is used up.
    """
    state = getattr(loader, "state", None)
    other_state = hasattr(loader, "set_mode") and state not in _WITH_INTERACTIONS
    generators = random_state.generators(train=loader)
    states = {name: generator.get_state() for name, generator in generators.items()}
    try:
        if other_state:
            loader.set_mode(KGDataLoaderState.RS)
        with random_state.preserved():
            return list(itertools.islice(loader, count))
    finally:
        for name, generator in generators.items():
            generator.set_state(states[name])
        if other_state:
            loader.state = state
