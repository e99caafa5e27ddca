"""What RecBole does besides its work, put off until it is wanted, kept quiet, or said plainly.

Its trainer's constructor makes a checkpoint folder and a TensorBoard file before anybody has
decided to train, its loop calls PyTorch by names that PyTorch has replaced since, which PyTorch
says, and what it finds wrong with a data set is an error like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import recbole.trainer.trainer

from recbole_tinykg.errors import ConfigurationError, UserError


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
    """Call of replaced PyTorch functions by RecBole's loop and models go unremarked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", module=r"recbole\.")
        yield


@contextmanager
def recboles_warnings_ignored() -> Iterator[None]:
    """RecBole assigns in chains (fine before pandas 3) and divides by zero (and mends it)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"recbole\.")
        yield


@contextmanager
def recboles_data_errors(config: Any) -> Iterator[None]:
    """What RecBole says about files and splits that it cannot use becomes an error of ours.

    Raises:
        ConfigurationError: RecBole refused the data set.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise ConfigurationError(
            f"RecBole cannot use the data set {config['dataset']} with these parameters: {error}"
        ) from error
