"""What TensorBoard shows of a training run, beside the loss that RecBole writes.

====================  ==================================================================
`Valid/<metric>`    after every evaluation during training
`Valid_best/…`      the same of the best epoch, when training ends
`Test/<metric>`     test metrics of the best epoch
`Seconds/<part>`    per epoch: `total`, `rs`, `kg`, `refresh`, `evaluation`
`Memory/<bytes>`    of a step of each phase: saved activations, peak; and of what stays
`Bits/<map>`        bits that activations are kept at, per epoch
HParams               parameters of the run; its `Test`, `Valid_best`, bytes and seconds
====================  ==================================================================

RecBole itself writes `Loss/Train`, or `Loss/Train0` and `Loss/Train1`, and the metric that
decides which epoch is the best as `Vaild_score`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.trainer import Trainer
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from recbole_tinykg.errors import UserError
from recbole_tinykg.memory.meter import optimizer_bytes
from recbole_tinykg.trainer.phases import EpochClock
from recbole_tinykg.trainer.progress import EVALUATION

_GENERAL = (
    "model dataset seed learner learning_rate weight_decay train_batch_size epochs stopping_step"
).split()
_PLUMBING = frozenset(  # what RecBole counts as a model's parameter and is none
    "worker wandb_project shuffle require_pow enable_scaler transform numerical_features "
    "discretization MODEL_TYPE MODEL_INPUT_TYPE eval_type single_spec local_rank run_name device "
    "valid_neg_sample_args test_neg_sample_args compress_require_native config_files".split()
)


class LazyWriter:
    """TensorBoard's `SummaryWriter`, created with its file when it is first used."""

    def __init__(self, folder: Path) -> None:
        """Remember `folder`, and creates nothing."""
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __getattr__(self, name: str) -> Any:
        """Look `name` up in the writer.

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
        """Close the file if there is one; the next use opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Board(LazyWriter):
    """The TensorBoard folder of a run."""

    def scalars(self, group: str, values: Mapping[str, float | None] | None, epoch: int) -> None:
        """Write `<group>/<name>` for every value that there is."""
        for name, value in (values or {}).items():
            if value is not None:
                self.add_scalar(f"{group}/{name}", value, epoch)

    def parameters(
        self, config: Any, metrics: Mapping[str, float] | None, phase_bytes: Mapping[str, Any]
    ) -> None:
        """Enter the run into HParams, with the names under which its results are written."""
        results = [f"{group}/{name}" for group in ("Test", "Valid_best") for name in metrics or ()]
        results += [f"Memory/{name}" for name in flat(phase_bytes)]
        tags = dict.fromkeys([*results, "Seconds/total"], 0.0)  # their values are scalars
        for summary in hparams(hyperparameters(config), tags):
            self.file_writer.add_summary(summary)


class WatchedTrainer(Trainer):
    """Writes to the board where RecBole's loop writes to TensorBoard.

    Attributes:
        tensorboard: The run's board.
        doing: What a progress bar says of the pass that is made.
    """

    config: Any
    model: Any
    optimizer: Any
    tensorboard: Board
    doing = EVALUATION
    best_valid_result: Mapping[str, float] | None
    _epoch = 0  # the one in training, or the last one
    _clock: EpochClock
    _phase_bytes: dict[str, dict[str, int | None]]
    _resident_bytes: dict[str, int]

    @property
    def epoch_seconds(self) -> list[dict[str, float]]:
        """Seconds of every epoch trained by this object: `rs`, `kg`, `refresh`, `total`."""
        return self._clock.epochs

    @property
    def evaluation_seconds(self) -> list[float]:
        """Seconds of every evaluation by this object."""
        return self._clock.evaluations

    def show_test_result(self, metrics: Mapping[str, float] | None) -> None:
        """Enter the test metrics of the best epoch."""
        self.tensorboard.scalars("Test", metrics, self._epoch)
        self.tensorboard.close()

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        self.doing = f"epoch {self._epoch}, validation"
        score, metrics = super()._valid_epoch(valid_data, show_progress)
        self.doing = EVALUATION
        self.tensorboard.scalars("Valid", metrics, self._epoch)
        for seconds in self._clock.evaluations[-1:]:
            self.tensorboard.scalars("Seconds", {"evaluation": seconds}, self._epoch)
        return score, metrics

    def _add_train_loss_to_tensorboard(
        self, epoch_idx: int, losses: Any, tag: str = "Loss/Train"
    ) -> None:
        """Comes right after an epoch's training."""
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
        resident = {**self._resident_bytes, "optimizer_bytes": optimizer_bytes(self.optimizer)}
        bits = bits_of_maps(self.model, self.config)
        self.tensorboard.scalars("Seconds", self._clock.epochs[-1], epoch_idx)
        self.tensorboard.scalars("Memory", flat(self._phase_bytes) | resident, epoch_idx)
        self.tensorboard.scalars("Bits", bits, epoch_idx)
        self.doing = EVALUATION

    def _add_hparam_to_tensorboard(self, best_valid_result: float) -> None:
        """Comes when training ends."""
        self.tensorboard.scalars("Valid_best", self.best_valid_result, self._epoch)
        self.tensorboard.parameters(self.config, self.best_valid_result, self._phase_bytes)


def hyperparameters(config: Any) -> dict[str, bool | str | float | int]:
    """Return what a run may be told from another by, without switches that are off."""
    listed = {name for names in config.parameters.values() for name in names}
    final = config.final_config_dict
    chosen = {*_GENERAL} | {name for name in final if name not in listed} - _PLUMBING
    if final.get("compress_seed") == final["seed"]:
        chosen.discard("compress_seed")
    if final.get("compress_budget") is not None:
        chosen.discard("compress_bits")
    found = {name: final.get(name) for name in sorted(chosen)}
    values = {
        name: value for name, value in found.items() if value is not None and value is not False
    }
    plain = (bool, str, float, int)
    return {name: v if isinstance(v, plain) else str(v) for name, v in values.items()}


def flat(phase_bytes: Mapping[str, Mapping[str, int | None]]) -> dict[str, int]:
    """Bytes by `<phase>_<quantity>`, of what was measured and is not 0."""
    return {
        f"{phase}_{name}": number
        for phase, quantities in phase_bytes.items()
        for name, number in quantities.items()
        if number
    }


def bits_of_maps(model: nn.Module, config: Any) -> dict[str, int]:
    """Bits per stored map: as chosen under `compress_budget`, or those of the whole model.

    A model that compresses nothing has none.
    """
    chosen = getattr(model, "map_bits", {})
    if chosen:
        return dict(chosen)
    return {} if config["compress_bits"] is None else {"all_maps": config["compress_bits"]}
