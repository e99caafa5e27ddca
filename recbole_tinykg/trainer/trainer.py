"""RecBole's own trainer, with measured steps, timed phases and safe checkpoints underneath.

RecBole trains each knowledge model with a trainer of its own (`KGATTrainer`, `KGTrainer`, …),
which decides what an epoch is and calls `Trainer` for each pass over the data. `TinyTrainer`
slips in between by inheritance, for twins and for stock models alike::

    TinyKGATTrainer -> WholeEpoch -> KGATTrainer -> TinyTrainer -> Trainer
                       an epoch       the passes     a pass         the loops

So what an epoch is stays RecBole's decision, and what `TinyTrainer` adds is done by objects that it
owns. Autograd's anomaly mode is on only while `fit` runs. Twins train without it, with Adam in one
fused kernel, in a pass that does not wait for the device (`loop`) and replays steps as CUDA graphs
(`cuda_graphs`); their best items are collected without a matrix of all (`collector`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.trainer import Trainer
from recbole.utils import get_trainer as get_recbole_trainer
from recbole.utils import set_color
from torch import Tensor, nn

from recbole_tinykg import checkpoint
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.compat.side_effects import no_files, recboles_deprecations_ignored
from recbole_tinykg.config import plain_parameters
from recbole_tinykg.errors import ConfigurationError, DivergenceError
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.model import is_tiny, stock_name_of
from recbole_tinykg.trainer.bit_budget import BitBudget
from recbole_tinykg.trainer.collector import TopKCollector
from recbole_tinykg.trainer.compressed_loss import CompressedLoss
from recbole_tinykg.trainer.cuda_graphs import StepGraphs
from recbole_tinykg.trainer.loop import train_pass, without_unread_triples
from recbole_tinykg.trainer.optimizers import fuse
from recbole_tinykg.trainer.phases import PHASES, Measurements, WholeEpoch, phase_of
from recbole_tinykg.trainer.progress import shown_as
from recbole_tinykg.trainer.saving import COUNTERS, RunSaver
from recbole_tinykg.trainer.tensorboard import RunWriter, bits_of_maps

EVALUATION = "evaluation"


def get_trainer(config: Config, model: nn.Module) -> Any:
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


class TinyTrainer(Trainer):
    """Between RecBole's trainer of a model and its loop, where a call is one pass over one loss.

    Attributes:
        tensorboard: Writer of the run's TensorBoard folder.
        doing: What a progress bar calls the current pass.
        epoch_seconds: Per epoch trained by this object: `rs`, `kg`, `refresh`, `total`.
        evaluation_seconds: Of every evaluation by this object.
        step_graphs: A twin's steps as CUDA graphs, on a GPU.
    """

    doing = EVALUATION

    def __init__(self, config: Config, model: nn.Module) -> None:
        """Build RecBole's trainer with the files of a new run; write none of them."""
        self._is_twin = is_tiny(type(model))  # first: RecBole's constructor builds the optimizer
        with no_files():
            super().__init__(config, model)
        name = config["run_name"] or f"{config['model']}-{secrets.token_hex(6)}"
        self._use_files(RunFiles(Path(self.checkpoint_dir) / f"{name}.pth"))
        self._measurements = Measurements(model, self.device)
        self.epoch_seconds = self._measurements.clock.epochs
        self.evaluation_seconds = self._measurements.clock.evaluations
        has_budget = self._is_twin and config["compress_budget"] is not None
        self._budget = BitBudget(config, model) if has_budget else None
        compresses = config["compressed_saves"]
        self._compressed = CompressedLoss(config, model, self.device) if compresses else None
        self._epoch = 0  # the current one, or the last one
        self._resumed: dict[str, Any] | None = None
        self._latest_valid_result: dict[str, float] | None = None
        self.step_graphs = StepGraphs.of(self) if self._is_twin else None
        if self._is_twin:
            self.eval_collector = TopKCollector(config)

    @property
    def compression_step(self) -> int:
        """Steps taken in `compressed_saves`; 0 without it."""
        return self._compressed.step if self._compressed else 0

    def memory(self) -> dict[str, Any]:
        """Return the bytes of one step of each phase, and of what stays between steps.

        `rs` and `kg`, for phases that have run: `saved_activation_bytes`,
        `float32_saved_activation_bytes`, `peak_bytes`; and `parameter_bytes`,
        `graph_bytes`, `optimizer_bytes`.
        """
        return self._measurements.memory(self.optimizer)

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
            self._saver.save_last(self, epoch_idx)
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
        with self._measurements.clock.evaluation(), shown_as(self.doing):
            return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def show_test_result(self, metrics: Mapping[str, float] | None) -> None:
        """Write the test metrics of the best epoch to TensorBoard."""
        self.tensorboard.write_test(self._epoch, metrics)
        self.tensorboard.close()

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
        """Do the same as `resume_checkpoint` with the content of a checkpoint already loaded."""
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
        for name in COUNTERS:
            setattr(self, name, state[name])
        if self._compressed:
            self._compressed.step = state["compression_step"]
        self._resumed = state
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _use_files(self, files: RunFiles) -> None:
        self.saved_model_file = str(files.best)  # which the user may change before `fit`
        self.tensorboard = RunWriter(Path("log_tensorboard") / files.best.stem)

    def _begin(self, train_data: Any, valid_data: Any, saved: bool) -> None:
        """Check that files can be written, and put the random state of a resumed run back."""
        self._evaluates = bool(valid_data) and self.eval_step > 0  # as RecBole's loop has it
        files = RunFiles(Path(self.saved_model_file))
        self._saver = RunSaver(files, train_data, valid_data, writes=saved)
        self.tensorboard.flush()
        if self._resumed is not None:
            self._saver.restore_random_state(self._resumed)
            self._resumed = None

    def _detects_anomalies(self) -> bool:
        chosen = self.config["detect_anomaly"]
        return not self._is_twin if chosen is None else bool(chosen)

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super()._build_optimizer(**kwargs)
        is_adam = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        return fuse(optimizer) if is_adam and self._is_twin else optimizer

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: LossFunction | None = None,
        show_progress: bool = False,
    ) -> Any:
        loss_func = loss_func or self.model.calculate_loss
        loss_func = self._compressed.wrap(loss_func) if self._compressed else loss_func
        compression = self._compressed.compression if self._compressed else None
        phase, measurements = phase_of(loss_func), self._measurements
        self._epoch, self.doing = epoch_idx, f"epoch {epoch_idx}, {PHASES[phase]}"
        with (
            without_unread_triples(self.config, self.model, train_data),
            measurements.phase(phase),
            shown_as(self.doing),
        ):
            if self._budget and phase == "rs":
                self._budget.begin_epoch(epoch_idx, train_data, loss_func)
            with measurements.first_step(phase, loss_func, self.optimizer, compression) as measured:
                run = train_pass if self._is_twin else Trainer._train_epoch
                return run(self, train_data, epoch_idx, measured, show_progress)

    def _check_nan(self, loss: Tensor) -> None:
        if torch.isnan(loss):
            raise DivergenceError

    def _add_train_loss_to_tensorboard(
        self, epoch_idx: int, losses: Any, tag: str = "Loss/Train"
    ) -> None:
        """Write what the epoch's training took; save the epoch if no evaluation follows it."""
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
        bits = bits_of_maps(self.model, self.config)
        self.tensorboard.write_epoch(epoch_idx, self.epoch_seconds[-1], self.memory(), bits)
        self.doing = EVALUATION
        if self._evaluates and (epoch_idx + 1) % self.eval_step != 0:
            self._saver.save_last(self, epoch_idx)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        self.doing = f"epoch {self._epoch}, validation"
        score, metrics = super()._valid_epoch(valid_data, show_progress)
        self.doing = EVALUATION
        seconds = next(reversed(self.evaluation_seconds), None)
        self.tensorboard.write_evaluation(self._epoch, metrics, seconds)
        self._latest_valid_result = metrics
        return score, metrics

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Save the best epoch so far, with its result, which RecBole notes only afterwards."""
        if self._latest_valid_result is not None:
            self.best_valid_result = self._latest_valid_result
        self._saver.save_best(self, epoch)
        if verbose:
            path = self._saver.files.best
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _add_hparam_to_tensorboard(self, best_valid_result: float) -> None:
        """Write the best epoch's metrics and the run's parameters, when training ends."""
        self.tensorboard.write_best(
            self._epoch, self.best_valid_result, self.config, self._measurements.phase_bytes
        )
