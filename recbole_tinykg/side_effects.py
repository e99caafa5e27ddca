"""What RecBole's trainer does besides training, put off until it is wanted, or kept quiet.

Its constructor makes a checkpoint folder and a TensorBoard file before anybody has decided to
train, and its loop calls PyTorch by names that PyTorch has replaced since, which PyTorch says.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import recbole.trainer.trainer
from torch.utils.tensorboard import SummaryWriter

from recbole_tinykg.errors import UserError


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
