"""What TensorBoard shows of a training run, besides the loss that RecBole writes.

====================  ==================================================================
`Valid/<metric>`      after every evaluation during training
`Valid_best/…`        the same of the best epoch, when training ends
`Test/<metric>`       test metrics of the best epoch
`Seconds/<part>`      per epoch: `total`, `rs`, `kg`, `refresh`, `evaluation`
`Memory/<bytes>`      of a step of each phase: saved activations, peak; and between steps
`Bits/<map>`          bits that activations are stored at, per epoch
HParams               parameters of the run; its `Test`, `Valid_best`, bytes and seconds
====================  ==================================================================

RecBole itself writes `Loss/Train`, or `Loss/Train0` and `Loss/Train1`, and the metric that
decides which epoch is the best as `Vaild_score`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.config import Config
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from recbole_tinykg.errors import UserError

_GENERAL = (
    "model dataset seed learner learning_rate weight_decay train_batch_size epochs stopping_step"
).split()
_PLUMBING = frozenset(  # what RecBole lists with a model's parameters but is none of them
    "worker wandb_project shuffle require_pow enable_scaler transform numerical_features "
    "discretization MODEL_TYPE MODEL_INPUT_TYPE eval_type single_spec local_rank run_name device "
    "valid_neg_sample_args test_neg_sample_args compress_require_native cuda_graphs "
    "config_files".split()
)


class RunWriter:
    """Writes what the trainer reports of a run, under the tags at the head of the file.

    The `SummaryWriter`, with its file, is created on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __getattr__(self, name: str) -> Any:
        """Look `name` up in the writer.

        Raises:
            UserError: The file cannot be written in the folder.
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

    def write_epoch(
        self,
        epoch: int,
        seconds: Mapping[str, float],
        memory: Mapping[str, Any],
        bits: Mapping[str, int],
    ) -> None:
        """Write what an epoch of training took; `memory` is that of `TinyTrainer.memory`."""
        self._write("Seconds", seconds, epoch)
        self._write("Memory", flatten(memory), epoch)
        self._write("Bits", bits, epoch)

    def write_evaluation(
        self, epoch: int, metrics: Mapping[str, float] | None, seconds: float | None
    ) -> None:
        """Write the validation metrics of an epoch, and the seconds they took."""
        self._write("Valid", metrics, epoch)
        self._write("Seconds", {"evaluation": seconds}, epoch)

    def write_best(
        self,
        epoch: int,
        metrics: Mapping[str, float] | None,
        config: Config,
        phase_bytes: Mapping[str, Any],
    ) -> None:
        """Write the validation metrics of the best epoch, and enter the run into HParams."""
        self._write("Valid_best", metrics, epoch)
        results = [f"{group}/{name}" for group in ("Test", "Valid_best") for name in metrics or ()]
        results += [f"Memory/{name}" for name in flatten(phase_bytes)]
        tags = dict.fromkeys([*results, "Seconds/total"], 0.0)  # their values are scalars
        for summary in hparams(hyperparameters(config), tags):
            self.file_writer.add_summary(summary)

    def write_test(self, epoch: int, metrics: Mapping[str, float] | None) -> None:
        """Write the test metrics of the best epoch, after the last epoch's number."""
        self._write("Test", metrics, epoch)

    def _write(self, group: str, values: Mapping[str, float | None] | None, epoch: int) -> None:
        """Write `<group>/<name>` for every value that is not None."""
        for name, value in (values or {}).items():
            if value is not None:
                self.add_scalar(f"{group}/{name}", value, epoch)


def hyperparameters(config: Config) -> dict[str, bool | str | float | int]:
    """Return the parameters that tell a run from another, without switches that are off."""
    listed = {name for names in config.parameters.values() for name in names}
    final = config.final_config_dict
    chosen = {*_GENERAL} | {name for name in final if name not in listed} - _PLUMBING
    if final.get("compress_seed") == final["seed"]:
        chosen.discard("compress_seed")
    if final.get("compress_budget") is not None:
        chosen.discard("compress_bits")
    values = {name: final.get(name) for name in sorted(chosen)}
    return {
        name: value if isinstance(value, bool | str | float | int) else str(value)
        for name, value in values.items()
        if value is not None and value is not False
    }


def flatten(memory: Mapping[str, Any]) -> dict[str, int]:
    """Name the bytes of a phase `<phase>_<quantity>`, if they were measured and are not 0."""
    flat: dict[str, int] = {}
    for name, value in memory.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{quantity}": n for quantity, n in value.items() if n}
        else:
            flat[name] = value
    return flat


def bits_of_maps(model: nn.Module, config: Config) -> dict[str, int]:
    """Return bits per stored map as chosen under `compress_budget`, or one number for all maps.

    Empty for a model that compresses nothing.
    """
    chosen = getattr(model, "map_bits", {})
    if chosen:
        return dict(chosen)
    return {} if config["compress_bits"] is None else {"all_maps": config["compress_bits"]}
