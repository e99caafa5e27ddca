"""What a worker runs: one trial, from data to its last epoch, with a report after every epoch.

The report holds the validation metric; trials never see test data. An error inside a trial (an
impossible parameter, memory, NaN) is its result and reported as such. If the worker itself dies,
Ray starts the trial again, and it continues from `<run>-last.pth`.

Importing this module imports no PyTorch: a worker chooses its GPU first.

Everything a trial writes is in its folder: `parameters.yaml`, `history.jsonl`, `log`,
`log_tensorboard`, `saved`; `error.txt` if it fails.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml

from recbole_tinykg.commands.tune.objectives import OBJECTIVES
from recbole_tinykg.commands.tune.records import folder_of, read_trial

if TYPE_CHECKING:
    from recbole_tinykg.checkpoint.run_files import RunFiles
    from recbole_tinykg.quick_start import Experiment

Row = dict[str, Any]
_NOTHING: Row = {
    **dict.fromkeys(OBJECTIVES, math.nan),
    "metrics": {},
    "best_epoch": None,
    "finished": False,
    "error": None,
}


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a search share.

    Attributes:
        output: Folder of the search, absolute.
        base: Configuration, as `Config.from_plain` reads it.
        cpus: Of a trial.
        gpus: Of a trial.
    """

    output: str
    base: dict[str, Any]
    cpus: float
    gpus: float


def train_trial(config: Mapping[str, Any], plan: TrialPlan) -> None:
    """Ray's trainable: `config["trial"]` holds the number of the trial and its parameters."""
    from ray import tune

    if plan.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch is imported
    run_trial(config["trial"]["number"], config["trial"]["parameters"], plan, tune.report)


def run_trial(
    number: int, parameters: Mapping[str, Any], plan: TrialPlan, report: Callable[[Row], None]
) -> None:
    """Train a trial, or continue it, or repeat the report of one that has ended.

    Args:
        number: Of the trial.
        parameters: Those that win over the shared ones.
        plan: Shared with the other trials.
        report: Takes a row after every epoch, and one with `error` if the trial fails.
    """
    folder = folder_of(plan.output, number)
    _claim(folder, parameters)
    os.chdir(folder)
    ended = read_trial(folder)
    if ended is not None:
        measured = {name: getattr(ended, name) for name in OBJECTIVES}
        known = {name: value for name, value in measured.items() if value is not None}
        epoch = {"epoch": ended.epochs} if ended.epochs else {}
        report({**_NOTHING, **known, **epoch, "finished": True, "error": ended.error})
        return

    def write_and_report(row: Row) -> None:
        with open(folder / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        report(row)

    try:
        _train(number, parameters, plan, write_and_report)
    except Exception as error:  # any error is the result of this trial
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        text = " ".join(str(error).split())
        report({**_last_row(folder), "error": f"{type(error).__name__}: {text}"})


def run_files(folder: Path, number: int) -> RunFiles:
    """Return the files of a trial's run in the trial's folder."""
    from recbole_tinykg.checkpoint.run_files import RunFiles

    return RunFiles.in_folder(folder / "saved", f"trial-{number:03d}")


def _claim(folder: Path, parameters: Mapping[str, Any]) -> None:
    """Empty the folder if a trial with other parameters left something there.

    A search that died may have started trials that Ray has no record of.
    """
    from recbole_tinykg.checkpoint.safe_write import write_whole

    file = folder / "parameters.yaml"
    text = yaml.safe_dump(dict(parameters), sort_keys=False)
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_whole(file, text)


def _train(
    number: int, parameters: Mapping[str, Any], plan: TrialPlan, report: Callable[[Row], None]
) -> None:
    import torch

    from recbole_tinykg.config import Config
    from recbole_tinykg.quick_start.experiment import build

    torch.set_num_threads(max(1, int(plan.cpus)))
    files = run_files(Path.cwd(), number)
    changes = {
        **parameters,
        "run_name": files.best.stem,
        "checkpoint_dir": str(files.best.parent),
    }
    experiment = build(Config.from_plain(plan.base, changes), writes_log=True)
    config, trainer = experiment.config, experiment.trainer
    if files.last.is_file() and not _take_up(experiment, files.last, report):
        return

    def after_epoch(epoch: int, score: float) -> None:
        report(_row(trainer, epoch, score, config["eval_step"]))

    data = experiment.train_data, experiment.valid_data
    trainer.fit(*data, verbose=True, saved=True, callback_fn=after_epoch)
    report({**_last_row(Path.cwd()), "finished": True})


def _take_up(experiment: Experiment, last: Path, report: Callable[[Row], None]) -> bool:
    """Take up a trial whose worker died; return whether anything is left to train."""
    from recbole_tinykg import checkpoint
    from recbole_tinykg.errors import CheckpointError
    from recbole_tinykg.quick_start.results import plain_metrics

    config, state = experiment.config, checkpoint.load(last)
    row = {
        **_last_row(Path.cwd()),
        "epoch": state["epoch"] + 1,
        "valid": float(state["best_valid_score"]),
        "metrics": plain_metrics(state["best_valid_result"]) or {},
    }
    try:
        checkpoint.check_unfinished(
            state, epochs=config["epochs"], stopping_step=config["stopping_step"]
        )
    except CheckpointError:
        report({**row, "finished": True})
        return False
    experiment.trainer.resume(state, last, experiment.train_data)
    report(row)
    return True


def _row(trainer: Any, epoch: int, score: float, eval_step: int) -> Row:
    from recbole_tinykg.quick_start.results import plain_metrics
    from recbole_tinykg.trainer.phases import PHASES

    memory = trainer.memory()
    phases = [memory[phase] for phase in PHASES if phase in memory]
    peaks = [phase["peak_bytes"] for phase in phases if phase["peak_bytes"] is not None]
    return {
        **_NOTHING,
        "epoch": epoch + 1,
        "score": float(score),
        "valid": float(trainer.best_valid_score),
        "metrics": plain_metrics(trainer.best_valid_result) or {},
        "best_epoch": epoch + 1 - trainer.cur_step * eval_step,
        "saved": max(phase["saved_activation_bytes"] for phase in phases),
        "peak": max(peaks, default=math.nan),
        "seconds": round(median(epoch["total"] for epoch in trainer.epoch_seconds), 4),
    }


def _last_row(folder: Path) -> Row:
    file = folder / "history.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {**_NOTHING, **(json.loads(lines[-1]) if lines else {})}
