"""The two checkpoints of a run: `<run>.pth`, its best epoch, and `<run>-last.pth`, its last.

Both hold everything, so training can continue from either. When the last epoch is the best, the
two names share one file: files are replaced, never changed, so neither disturbs the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_tinykg import checkpoint
from recbole_tinykg.errors import CheckpointError

_LAST = "-last"

State = Mapping[str, Any]


class RunFiles:
    """Where a run keeps its best and its last epoch.

    Attributes:
        best: `<folder>/<run>.pth`.
        last: `<folder>/<run>-last.pth`.
    """

    def __init__(self, best: Path) -> None:
        """Names the files; writes nothing."""
        self.best = best
        self.last = best.with_name(f"{best.stem}{_LAST}.pth")
        self._last_epoch: int | None = None  # in the file, as far as this object wrote it

    @classmethod
    def around(cls, path: str | os.PathLike[str], state: State) -> RunFiles:
        """Return the files of the run that wrote a checkpoint.

        Args:
            path: The checkpoint, of the best epoch or of the last.
            state: Its content.

        Raises:
            CheckpointError: The best epoch's file is not there, or holds the last epoch.
        """
        path = Path(path)
        if not path.stem.endswith(_LAST):
            if state["cur_step"] > 0:
                raise CheckpointError(
                    f"{path} holds the last epoch of a run under the name of its best one: "
                    f"rename it to <run>{_LAST}.pth, with <run>.pth beside it"
                )
            return cls(path)
        files = cls(path.with_name(f"{path.stem.removesuffix(_LAST)}.pth"))
        if state["best_valid_result"] is not None and not files.best.is_file():
            raise CheckpointError(
                f"{path} needs the best epoch of its run beside it; there is no {files.best}"
            )
        return files

    def save_best(self, state: State) -> None:
        """Write an epoch that is the best so far, and thereby the last."""
        checkpoint.save(self.best, state)
        if checkpoint.duplicate(self.best, self.last):
            self._last_epoch = state["epoch"]

    def save_last(self, epoch: int, state: Callable[[], State]) -> None:
        """Write the last epoch, unless `save_best` has just done it."""
        if self._last_epoch != epoch:
            checkpoint.save(self.last, state())
            self._last_epoch = epoch
