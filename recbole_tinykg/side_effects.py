"""What RecBole does besides its work, put off until it is wanted, kept quiet, or said plainly.

Its trainer's constructor makes a checkpoint folder and a TensorBoard file before anybody has
decided to train, its loop calls PyTorch by names that PyTorch has replaced since, which PyTorch
says, and what it finds wrong with a data set is an error like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import recbole.trainer.trainer
from torch.utils.tensorboard import SummaryWriter

from recbole_tinykg.errors import ConfigurationError, UserError


class LazyWriter:
    """TensorBoard's ``SummaryWriter``, created with its file when it is first used."""

    def __init__(self, folder: Path) -> None:
        """Remembers ``folder``, and creates nothing."""
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __getattr__(self, name: str) -> Any:
        """Looks ``name`` up in the writer.

        Raises:
            UserError: The folder does not take the file.
        """
        if self._writer is None:
            try:
                self._writer = SummaryWriter(str(self._folder))
            except OSError as error:
                parent = self._folder.parent.absolute()
                raise UserError(f"TensorBoard needs a writable folder {parent}: {error}") from error
        return getattr(self._writer, name)

    def close(self) -> None:
        """Closes the file if there is one; the next use opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


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
