"""Captures and restores every source of random numbers that a RecBole run draws from.

RecBole's samplers draw from NumPy's global generator, dropout from PyTorch's, and each data loader
shuffles with a generator of its own. Python's is captured too: a model or a data set may use it.
States are plain containers, as checkpoints store them.

A state that is put back takes with it what another thread has drawn meanwhile. So where one draws
by itself, each draw is `undisturbed`, and so is what puts a state back while it may.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_turn = threading.RLock()


def capture() -> dict[str, Any]:
    """Return the states of Python, NumPy, PyTorch and, once CUDA is in use, of its devices."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Put the states of `capture` back, except those of CUDA devices that this machine lacks."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for index, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, index)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run a block while no other thread runs one; it must not wait for a thread that would."""
    with _turn:
        yield


@contextmanager
def preserved(*loaders: Any) -> Iterator[None]:
    """Put the random state back after the block, and that of the loaders' generators."""
    state = capture()
    found = generators(**{str(i): loader for i, loader in enumerate(loaders)}).values()
    states = [generator.get_state() for generator in found]
    try:
        yield
    finally:
        restore(state)
        for generator, before in zip(found, states, strict=True):
            generator.set_state(before)


def generators(**loaders: Any) -> dict[str, torch.Generator]:
    """Find the generators of data loaders, including those in RecBole's knowledge-graph loader.

    Args:
        loaders: Loaders by name; None has no generator.

    Returns:
        Generators by name, such as `valid` or `train.kg_dataloader`.
    """
    parts = {
        f"{name}.{part}".removesuffix("."): getattr(loader, part) if part else loader
        for name, loader in loaders.items()
        for part in ("", "general_dataloader", "kg_dataloader")
        if not part or hasattr(loader, part)
    }
    found = {name: getattr(loader, "generator", None) for name, loader in parts.items()}
    return {name: g for name, g in found.items() if isinstance(g, torch.Generator)}
