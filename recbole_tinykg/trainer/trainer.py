"""RecBole's own trainer, with measured steps, timed phases and safe checkpoints underneath.

RecBole trains each knowledge model with a trainer of its own (`KGATTrainer`, `KGTrainer`, …),
which decides what an epoch is and calls `Trainer` for each pass over the data. `TinyTrainer`
slips in between by inheritance, for twins and for stock models alike::

    TinyKGATTrainer -> WholeEpoch -> KGATTrainer -> TinyTrainer -> WatchedTrainer -> Trainer
                       an epoch       the passes     a pass         TensorBoard       the loops

So what an epoch is stays RecBole's. What is added: the bytes of the first step and the seconds of
every phase; the checkpoints `<run>.pth` and `<run>-last.pth`, from which training continues bit
for bit; autograd's anomaly mode only while `fit` runs; more for TensorBoard, in files that are
there once there is something to write (`board`). For twins also: no anomaly mode, Adam in one
fused kernel, a pass that does not wait for the device (`loop`) and a collector of the best items
that is no matrix (`full_sort`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer as get_recbole_trainer
from recbole.utils import set_color
from torch import nn

from recbole_tinykg import checkpoint
from recbole_tinykg.checkpoint import random_state
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.compat.side_effects import no_files, recboles_deprecations_ignored
from recbole_tinykg.config import plain_parameters
from recbole_tinykg.errors import ConfigurationError, DivergenceError
from recbole_tinykg.memory.meter import optimizer_bytes, resident_bytes
from recbole_tinykg.memory.step_meter import LossFunction, StepMeter
from recbole_tinykg.model import is_tiny, stock_name_of
from recbole_tinykg.trainer import progress
from recbole_tinykg.trainer.bit_budget import BitBudget
from recbole_tinykg.trainer.collector import TopKCollector
from recbole_tinykg.trainer.compressed_loss import CompressedLoss
from recbole_tinykg.trainer.loop import train_pass, without_unread_triples
from recbole_tinykg.trainer.optimizers import fused
from recbole_tinykg.trainer.phases import EpochClock, WholeEpoch, phase_of
from recbole_tinykg.trainer.tensorboard import Board, WatchedTrainer

_COUNTERS = ("cur_step", "best_valid_score", "best_valid_result", "train_loss_dict")


def get_trainer(config: Any, model: nn.Module) -> Any:
    """Return the trainer of a twin or of a stock model, ready for `fit`; writes no files.

    Raises:
        ConfigurationError: RecBole trains the model in a loop of its own.
    """
    return trainer_class(type(model))(config, model)


def trainer_class(model_class: Any) -> type:
    """Return the trainer class for a model class: the stock model's trainer with ours underneath.

    Raises:
        ConfigurationError: RecBole trains the model in a loop of its own.
    """
    name = model_class.__name__
    stock_trainer = get_recbole_trainer(model_class.type, stock_name_of(model_class))
    if stock_trainer.fit is not Trainer.fit:
        raise ConfigurationError(
            f"model must train in RecBole's common loop; got {name}, "
            f"which has {stock_trainer.__name__}.fit: run it with RecBole itself"
        )
    bases = (TinyTrainer,) if stock_trainer is Trainer else (stock_trainer, TinyTrainer)
    return type(f"{name}Trainer", (WholeEpoch, *bases), {})


class TinyTrainer(WatchedTrainer):
    """Between RecBole's trainer of a model and its loop, where a call is one pass over one loss."""

    def __init__(self, config: Any, model: nn.Module) -> None:
        """Build RecBole's trainer with the files of a new run; writes none of them."""
        with no_files():
            super().__init__(config, model)
        name = config["run_name"] or f"{config['model']}-{secrets.token_hex(6)}"
        self._use_files(RunFiles(Path(self.checkpoint_dir) / f"{name}.pth"))
        self._clock = EpochClock(self.device)
        self._phase_bytes: dict[str, dict[str, int | None]] = {}
        self._resident_bytes: dict[str, int] = {}
        self._resumed: dict[str, Any] | None = None
        self._latest_valid_result: dict[str, float] | None = None
        self._budget = BitBudget.of(config, model)
        self._compressed = CompressedLoss.of(config, model, self.device)
        if is_tiny(type(model)):
            self.eval_collector = TopKCollector(config)

    def memory(self) -> dict[str, Any]:
        """Return the bytes of one step of each phase, and of what stays between steps.

        `rs` and `kg`, for phases that have run: `saved_activation_bytes`,
        `float32_saved_activation_bytes`, `peak_bytes`; and `parameter_bytes`,
        `graph_bytes`, `optimizer_bytes`.
        """
        return {
            **self._phase_bytes,
            **(self._resident_bytes or resident_bytes(self.model)),
            "optimizer_bytes": optimizer_bytes(self.optimizer),
        }

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train as RecBole's `fit` does; if `saved`, every epoch leaves `<run>-last.pth`.

        Raises:
            CheckpointError: Files cannot be written, or the resumed run had another data set.
        """
        self._begin(train_data, valid_data, saved)

        def after_evaluation(epoch_idx: int, valid_score: float) -> None:
            self._save_last(epoch_idx)
            if callback_fn is not None:
                callback_fn(epoch_idx, valid_score)

        try:
            with (
                torch.autograd.set_detect_anomaly(self._detects_anomalies()),
                recboles_deprecations_ignored(),
            ):
                return super().fit(
                    train_data, valid_data, verbose, saved, show_progress, after_evaluation
                )
        finally:
            self.tensorboard.close()

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | os.PathLike[str] | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Evaluate as RecBole's `evaluate` does; a checkpoint is read without running its code.

        Raises:
            CheckpointError: The checkpoint cannot be read, or is of another model.
        """
        if load_best_model and eval_data:
            path = model_file or self.saved_model_file
            checkpoint.restore_model(self.model, checkpoint.load(path))
            self.logger.info(f"Loading model structure and parameters from {path}")
        with self._clock.evaluation(), progress.said(self.doing):
            return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def _check_nan(self, loss: Any) -> None:
        if torch.isnan(loss):
            raise DivergenceError

    def resume_checkpoint(
        self, resume_file: str | os.PathLike[str], train_data: Any = None
    ) -> None:
        """Take a run up where a checkpoint left it; `fit` then continues it, in its files.

        Args:
            resume_file: The checkpoint, of the run's best epoch or of its last.
            train_data: What `fit` will get, to be compared now; None: `fit` compares it.

        Raises:
            CheckpointError: The checkpoint cannot be read; is of another model, shape, data set or
                configuration, or of a finished run; the best epoch is not beside it.
        """
        self.resume(checkpoint.load(resume_file), resume_file, train_data)

    def resume(
        self,
        state: dict[str, Any],
        resume_file: str | os.PathLike[str],
        train_data: Any = None,
    ) -> None:
        """As `resume_checkpoint`, from the content of a checkpoint that is loaded already."""
        checkpoint.check_class(self.model, state)
        checkpoint.check_config(plain_parameters(self.config), state)
        if train_data is not None:
            checkpoint.check_dataset(checkpoint.dataset_fingerprint(train_data._dataset), state)
        checkpoint.check_model(self.model, state)
        checkpoint.check_unfinished(state, epochs=self.epochs, stopping_step=self.stopping_step)
        self._use_files(RunFiles.around(resume_file, state))
        checkpoint.restore_model(self.model, state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.start_epoch = state["epoch"] + 1
        for name in _COUNTERS:
            setattr(self, name, state[name])
        if self._compressed:
            self._compressed.step = state["compression_step"]
        self._resumed = state
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _use_files(self, files: RunFiles) -> None:
        self._files = files
        self.saved_model_file = str(files.best)
        self.tensorboard = Board(Path("log_tensorboard") / files.best.stem)

    def _begin(self, train_data: Any, valid_data: Any, saved: bool) -> None:
        """Check what training will write to, and puts a resumed run's random state back."""
        self._saves = saved
        self._files = RunFiles(Path(self.saved_model_file))  # which RecBole's users may have set
        self._evaluates = bool(valid_data) and self.eval_step > 0  # as RecBole's loop has it
        self._dataset = checkpoint.dataset_fingerprint(train_data._dataset)
        self._generators = random_state.generators(train=train_data, valid=valid_data)
        if saved:
            checkpoint.check_writable(self._files.best)
        self.tensorboard.flush()
        if self._resumed is not None:
            self._restore_random_state(self._resumed)
            self._resumed = None

    def _restore_random_state(self, state: dict[str, Any]) -> None:
        checkpoint.check_dataset(self._dataset, state)
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        random_state.restore(state["random_state"])

    def _detects_anomalies(self) -> bool:
        chosen = self.config["detect_anomaly"]
        return not is_tiny(type(self.model)) if chosen is None else bool(chosen)

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super()._build_optimizer(**kwargs)
        is_adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        return fused(optimizer) if is_adam and is_tiny(type(self.model)) else optimizer

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: LossFunction | None = None,
        show_progress: bool = False,
    ) -> Any:
        loss_func = loss_func or self.model.calculate_loss
        loss_func = self._compressed.wrap(loss_func) if self._compressed else loss_func
        phase = phase_of(loss_func)
        self._epoch, self.doing = epoch_idx, progress.training(epoch_idx, phase)
        self._resident_bytes = self._resident_bytes or resident_bytes(self.model)
        with (
            without_unread_triples(self.config, self.model, train_data),
            self._clock.phase(phase),
            progress.said(self.doing),
        ):
            if self._budget and phase == "rs":
                self._budget.begin_epoch(epoch_idx, train_data, loss_func)
            with self._measured(phase, loss_func) as measured:
                run = train_pass if is_tiny(type(self.model)) else Trainer._train_epoch
                return run(self, train_data, epoch_idx, measured, show_progress)

    @contextmanager
    def _measured(self, phase: str, loss_func: LossFunction) -> Iterator[LossFunction]:
        if phase in self._phase_bytes:
            yield loss_func
            return
        compression = self._compressed.compression if self._compressed else None
        with StepMeter(self.model, self.optimizer, self.device, loss_func, compression) as meter:
            yield meter.loss_func
        if meter.result:
            self._phase_bytes[phase] = meter.result

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        score, self._latest_valid_result = super()._valid_epoch(valid_data, show_progress)
        return score, self._latest_valid_result

    def _add_train_loss_to_tensorboard(
        self, epoch_idx: int, losses: Any, tag: str = "Loss/Train"
    ) -> None:
        """Comes right after an epoch's training, and ends the epoch if no evaluation follows."""
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
        if self._evaluates and (epoch_idx + 1) % self.eval_step != 0:
            self._save_last(epoch_idx)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Comes for an epoch that is the best so far, before RecBole notes the epoch's result."""
        if self._latest_valid_result is not None:
            self.best_valid_result = self._latest_valid_result
        self._files.save_best(self._state(epoch))
        if verbose:
            path = self._files.best
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _save_last(self, epoch: int) -> None:
        if self._saves:
            self._files.save_last(epoch, lambda: self._state(epoch))

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            **checkpoint.model_state(self.model),
            "dataset": self._dataset,
            "config": plain_parameters(self.config),
            "epoch": epoch,
            **{name: getattr(self, name) for name in _COUNTERS},
            "compression_step": self._compressed.step if self._compressed else 0,
            "optimizer": self.optimizer.state_dict(),
            "random_state": random_state.capture(),
            "generators": {name: g.get_state() for name, g in self._generators.items()},
        }
