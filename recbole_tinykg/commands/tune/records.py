"""The outcome of each trial, in files that outlive the search.

`trials/<number>/trial.json` is written once, when a trial has ended; `trials.jsonl` (a line
per trial, in the order in which they ended) and `trials.csv` (in the order of their numbers)
repeat them for programs and spreadsheets.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: From 0; its folder is `trials/<number>` with three digits or more.
        parameters: Those that were tried.
        status: `finished` (all its epochs, or RecBole's early stopping), `stopped` by the
            scheduler, or `failed`.
        valid: The validation metric at the best epoch; None if it failed before.
        metrics: All validation metrics of that epoch.
        epochs: Trained.
        best_epoch: From 1.
        saved: Bytes kept for backward in one step; the larger of the two kinds of step.
        peak: Most bytes that one step allocates.
        seconds: Median of an epoch.
        error: Why it failed.
        worker_deaths: How often its worker died; it went on from its last epoch.
    """

    number: int
    parameters: dict[str, Any]
    status: str
    valid: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    best_epoch: int | None = None
    saved: int | None = None
    peak: int | None = None
    seconds: float | None = None
    error: str | None = None
    worker_deaths: int = 0


def folder_of(output: str | os.PathLike[str], number: int) -> Path:
    """Return the folder of a trial."""
    return Path(output) / "trials" / f"{number:03d}"


def read_trial(folder: Path) -> Trial | None:
    """Return the trial that ended in a folder, None if none did."""
    file = folder / "trial.json"
    return Trial(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def read_trials(output: str | os.PathLike[str]) -> list[Trial]:
    """Return all trials that have ended, by number."""
    folders = (Path(output) / "trials").glob("[0-9]*")
    trials = [trial for folder in folders if (trial := read_trial(folder))]
    return sorted(trials, key=lambda trial: trial.number)


def write_trial(output: str | os.PathLike[str], trial: Trial) -> None:
    """Write `trial.json`, whole or not at all, and append the trial to `trials.jsonl`."""
    from recbole_tinykg.checkpoint.safe_write import write_whole

    folder = folder_of(output, trial.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "trial.json", json.dumps(asdict(trial), indent=2) + "\n")
    with open(Path(output) / "trials.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(trial)) + "\n")


def write_table(path: Path, trials: Sequence[Trial]) -> None:
    """Write `trials.csv`: a column per field, parameter (`parameters.layers`) and metric."""
    from recbole_tinykg.checkpoint.safe_write import write_whole

    rows = [flatten(asdict(trial)) for trial in trials]
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(names))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write the keys of dictionaries inside as `outer.inner`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat
