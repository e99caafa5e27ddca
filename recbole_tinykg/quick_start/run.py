"""Trains a model from its name to its result: RecBole's `run_recbole`, step by step, draw by draw.

One step of RecBole's is left out: counting FLOPs. It deep-copies the model with its graph, which
doubles the memory that this package exists to save, and runs `predict` on the copy. (KGIN and
MCCLK draw random numbers in `predict`, so here their training starts at another place in the
random stream than under RecBole's `run_recbole`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_tinykg import checkpoint
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.config import Config
from recbole_tinykg.config.recbole_keys import check_valid_metric
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.quick_start import run_log
from recbole_tinykg.quick_start.experiment import Experiment, FilePath, Model, build
from recbole_tinykg.quick_start.results import pairs_checksum, plain_metrics, write_result


def run_recbole_tinykg(
    model: Model = None,
    dataset: str | None = None,
    config_file_list: Sequence[FilePath] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    *,
    argv: Sequence[str] = (),
    resume: FilePath | None = None,
) -> dict[str, Any]:
    """Train a model, evaluate its best epoch, and report accuracy, memory and time.

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
    if resume:
        experiment = _resume(resume, *arguments)
    else:
        experiment = build(Config(*arguments), writes_log=True)
    try:
        return _run(experiment, saved)
    except KeyboardInterrupt as interrupt:
        last = _files(experiment).last
        if last.is_file():
            interrupt.add_note(f"continue with --resume={last}")
        raise


def _resume(file: FilePath, model: Model, dataset: str | None, *others: Any) -> Experiment:
    """Build what a checkpoint describes, with changes, and take training up where it ended."""
    state = checkpoint.load(file)
    plain = state["config"]
    changed = Config(model or plain["model"], dataset or plain["dataset"], *others)
    for key in ("model", "dataset"):
        if changed[key] != plain[key]:
            raise CheckpointError(
                f"{file} is a checkpoint of {key} {plain[key]}; got {key} {changed[key]}: "
                f"leave {key} out, or start a new run"
            )
    config = Config.from_plain(plain, changed.external_config_dict)
    check_valid_metric(config)
    experiment = build(config, writes_log=True)
    experiment.trainer.resume(state, file, experiment.train_data)
    return experiment


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
        "splits": {name: pairs_checksum(split) for name, split in experiment.splits.items()},
    }
    if saved:
        files = _files(experiment)
        names = ("best", "last", "result")
        result["files"] = {name: str(getattr(files, name)) for name in names}
        write_result(files.result, result, config)
    return result


def _files(experiment: Experiment) -> RunFiles:
    return RunFiles(experiment.trainer.saved_model_file)
