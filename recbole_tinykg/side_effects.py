"""What RecBole's trainer does besides training, put off until it is wanted, or kept quiet.

Its constructor makes a checkpoint folder and a TensorBoard file before anybody has decided to
train, and its loop calls PyTorch by names that PyTorch has replaced since, which PyTorch says.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import recbole.trainer.trainer


@contextmanager
def no_files() -> Iterator[None]:
    """RecBole's trainer, constructed inside the block, makes no folder and no TensorBoard file."""
    module = recbole.trainer.trainer
    originals = {name: getattr(module, name) for name in ("ensure_dir", "get_tensorboard")}
    try:
        for name in originals:
            setattr(module, name, lambda _: None)
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


@contextmanager
def recboles_deprecations_ignored() -> Iterator[None]:
    """Calls of replaced PyTorch functions by RecBole's loop and models go unremarked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", module=r"recbole\.")
        yield
