"""The files of a run: `<run>.pth`, its best epoch; `<run>-last.pth`, its last; `<run>.json`.

Both checkpoints hold everything, so training can continue from either. When the last epoch is the
best, the two names share one file: files are replaced, never changed, so neither disturbs the
other. `<run>.json` is the result, which is written when the run ends.
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
    """Names the files of a run, and writes its checkpoints.

    Attributes:
        best: `<folder>/<run>.pth`.
        last: `<folder>/<run>-last.pth`.
        result: `<folder>/<run>.json`.
    """

    def __init__(self, best: str | os.PathLike[str]) -> None:
        """Name the files after the best epoch's; write nothing."""
        self.best = Path(best)
        self.last = self.best.with_name(f"{self.best.stem}{_LAST}.pth")
        self.result = self.best.with_suffix(".json")
        self._last_epoch: int | None = None  # in the file `last`, if this object wrote it

    @classmethod
    def in_folder(cls, folder: str | os.PathLike[str], run_name: str) -> RunFiles:
        """Return the files of a run by its name."""
        return cls(Path(folder) / f"{run_name}.pth")

    @classmethod
    def around(cls, path: str | os.PathLike[str], state: State) -> RunFiles:
        """Return the files of the run that wrote a checkpoint.

        Args:
            path: The checkpoint, of the best epoch or of the last.
            state: Its content.

        Raises:
            CheckpointError: The best epoch's file is missing, or holds the last epoch.
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
        """Write an epoch that is the best so far, and so also the last."""
        checkpoint.save(self.best, state)
        if checkpoint.duplicate(self.best, self.last):
            self._last_epoch = state["epoch"]

    def save_last(self, epoch: int, state: Callable[[], State]) -> None:
        """Write the last epoch, unless `save_best` has just done it."""
        if self._last_epoch != epoch:
            checkpoint.save(self.last, state())
            self._last_epoch = epoch
