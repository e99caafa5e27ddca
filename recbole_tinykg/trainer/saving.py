"""Saves a run while it trains, in two files from which training continues bit for bit.

A checkpoint holds everything that decides the next step: the model, the optimizer, the counters of
RecBole's loop, the random state and the generators of the data loaders; and what tells whether it
fits: the configuration and a fingerprint of the data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_tinykg import checkpoint
from recbole_tinykg.checkpoint import random_state
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.config import plain_parameters

COUNTERS = ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict")


class RunSaver:
    """Writes `<run>.pth` and `<run>-last.pth` during one call of `fit`.

    Attributes:
        files: Names of the run's files.
    """

    def __init__(
        self, files: RunFiles, train_data: Any, valid_data: Any = None, *, writes: bool = True
    ) -> None:
        """Check that the files can be written; write nothing.

        Args:
            files: The files to write.
            train_data: Loader of training batches.
            valid_data: Loader of validation batches, if there is validation.
            writes: False: `save_last` does nothing.

        Raises:
            CheckpointError: The files cannot be written.
        """
        self.files, self._writes = files, writes
        self._dataset = checkpoint.dataset_fingerprint(train_data._dataset)
        self._generators = random_state.generators(train=train_data, valid=valid_data)
        if writes:
            checkpoint.check_writable(self.files.best)

    def restore_random_state(self, state: Mapping[str, Any]) -> None:
        """Put back the random numbers of a checkpoint.

        Raises:
            CheckpointError: It was trained on another data set.
        """
        checkpoint.check_dataset(self._dataset, state)
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        random_state.restore(state["random_state"])

    def save_best(self, trainer: Any, epoch: int) -> None:
        """Save the epoch that a trainer has just finished, the best so far."""
        self.files.save_best(self._state(trainer, epoch))

    def save_last(self, trainer: Any, epoch: int) -> None:
        """Save the epoch that a trainer has just finished, unless `save_best` did."""
        if self._writes:
            self.files.save_last(epoch, lambda: self._state(trainer, epoch))

    def _state(self, trainer: Any, epoch: int) -> dict[str, Any]:
        return {
            **checkpoint.model_state(trainer.model),
            "dataset": self._dataset,
            "config": plain_parameters(trainer.config),
            "epoch": epoch,
            **{name: getattr(trainer, name) for name in COUNTERS},
            "compression_step": trainer.compression_step,
            "optimizer": trainer.optimizer.state_dict(),
            "random_state": random_state.capture(),
            "generators": {name: g.get_state() for name, g in self._generators.items()},
        }
