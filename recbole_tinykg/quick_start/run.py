"""From names to a trained model: RecBole's `run_recbole`, step by step, draw by draw.

The same seed gives the splits, initial weights and batches that RecBole draws, so that a twin and
its stock model can be compared step by step. One step of RecBole's is left out: counting FLOPs. It
deep-copies the model with its graph, which doubles the memory that this package is there to save,
and runs `predict` on the copy. (KGIN and MCCLK draw random numbers in `predict`: their training
starts elsewhere in the random stream than under RecBole's `run_recbole`.)

* `prepare` builds everything and writes nothing: for notebooks and tests.
* `run_recbole_tinykg` trains, evaluates, and writes log, checkpoints and `<run>.json`.
* `load_data_and_model` is RecBole's, for our checkpoints.
* `register` makes RecBole's own entry points accept the twins.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_tinykg import checkpoint
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.config import Config
from recbole_tinykg.config.recbole_keys import check_valid_metric
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.quick_start import run_log
from recbole_tinykg.quick_start.experiment import (
    ConfigFiles,
    Experiment,
    Names,
    _build,
    _check_surroundings,
)
from recbole_tinykg.quick_start.results import pairs_checksum, plain_metrics, write_result


def run_recbole_tinykg(
    model: Names = None,
    dataset: str | None = None,
    config_file_list: ConfigFiles = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    *,
    argv: Sequence[str] = (),
    resume: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train a model, evaluates its best epoch, and reports accuracy, memory and time.

    Args:
        model: Class name; None: as the key `model` says.
        dataset: Name of the data set; None: as the key `dataset` says.
        config_file_list: YAML files of parameters.
        config_dict: Parameters that win over the files.
        saved: Whether to write checkpoints, and the result beside them.
        argv: Arguments `--key=value` that win over all other parameters.
        resume: Checkpoint to continue from, under its configuration; other arguments change that.

    Returns:
        RecBole's `best_valid_score`, `valid_score_bigger`, `best_valid_result`,
        `test_result`; `memory`: for each phase (`rs`, `kg`) `saved_activation_bytes` and
        `peak_bytes` of one step, and `parameter_bytes`, `optimizer_bytes`, `graph_bytes`;
        `map_bits`: bits of each stored map, if `compress_budget` chose them; `epochs`,
        trained in all; `epoch_seconds`: for each epoch of this call, by phase;
        `evaluation_seconds`: of each evaluation; `splits`: a checksum of each; `model`,
        `dataset`, `run_name`; and `files`, the paths of checkpoints and result, when saved.

    Raises:
        UserError: Wrong input; the message is one line.
    """
    arguments = (model, dataset, config_file_list, config_dict, argv)
    config = _resumed_config(resume, *arguments) if resume else Config(*arguments)
    check_valid_metric(config)
    _check_surroundings(config)  # before a log file is there for nothing
    run_log.start(config)
    logging.getLogger().info(config)
    experiment = _build(config)
    if resume:
        experiment.trainer.resume_checkpoint(resume, experiment.train_data)
    try:
        return _run(experiment, saved)
    except KeyboardInterrupt as interrupt:
        last = _files(experiment)["last"]
        if Path(last).is_file():
            interrupt.add_note(f"continue with --resume={last}")
        raise


def _resumed_config(
    file: str | os.PathLike[str],
    model: Names,
    dataset: str | None,
    config_file_list: ConfigFiles,
    config_dict: Mapping[str, Any] | None,
    argv: Sequence[str],
) -> Config:
    """The configuration of a checkpoint, with changes."""
    plain = checkpoint.load(file)["config"]
    changed = Config(
        model or plain["model"], dataset or plain["dataset"], config_file_list, config_dict, argv
    )
    for key in ("model", "dataset"):
        if changed[key] != plain[key]:
            raise CheckpointError(
                f"{file} is a checkpoint of {key} {plain[key]}; got {key} {changed[key]}: "
                f"leave {key} out, or start a new run"
            )
    return Config.from_plain(plain, changed.external_config_dict)


def _run(experiment: Experiment, saved: bool) -> dict[str, Any]:
    config, trainer = experiment.config, experiment.trainer
    best_valid_score, best_valid_result = trainer.fit(
        experiment.train_data,
        experiment.valid_data,
        saved=saved,
        show_progress=config["show_progress"],
    )
    test_result = trainer.evaluate(
        experiment.test_data, load_best_model=saved, show_progress=config["show_progress"]
    )
    trainer.show_test_result(test_result)
    run_log.end(config, best_valid_result, test_result)
    result: dict[str, Any] = {
        "model": config["model"],
        "dataset": config["dataset"],
        "run_name": config["run_name"],
        "best_valid_score": float(best_valid_score),
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": plain_metrics(best_valid_result),
        "test_result": plain_metrics(test_result),
        "memory": trainer.memory(),
        "map_bits": getattr(experiment.model, "map_bits", {}),
        "epochs": trainer.start_epoch + len(trainer.epoch_seconds),
        "epoch_seconds": trainer.epoch_seconds,
        "evaluation_seconds": trainer.evaluation_seconds,
        "splits": _splits(experiment),
    }
    if saved:
        result["files"] = _files(experiment)
        write_result(Path(result["files"]["result"]), result, config)
    return result


def _splits(experiment: Experiment) -> dict[str, int]:
    loaders = (experiment.train_data, experiment.valid_data, experiment.test_data)
    return {
        name: pairs_checksum(loader._dataset)
        for name, loader in zip(("train", "valid", "test"), loaders, strict=True)
        if loader
    }


def _files(experiment: Experiment) -> dict[str, str]:
    files = RunFiles(Path(experiment.trainer.saved_model_file))
    return {
        "best": str(files.best),
        "last": str(files.last),
        "result": str(files.best.with_suffix(".json")),
    }
