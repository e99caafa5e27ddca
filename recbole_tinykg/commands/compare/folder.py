"""The folder of a comparison: what it holds, and how it survives a kill at any moment.

    settings.json      what all its runs have in common; other settings need another folder
    runs.jsonl         a line per finished run
    runs/<run>/        a run's own working folder: output.log, log/, log_tensorboard/, saved/
    comparison.*       the tables and the chart; tensorboard/: HParams

A finished run is first written as a whole file in its folder, then as a whole line. If a kill comes
between the two, the run is not repeated. Only one comparison at a time works in a folder.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.compare.runs import Request, Run
from recbole_tinykg.errors import ConfigurationError, UserError
from recbole_tinykg.model import get_model, stock_name_of

_PER_RUN = (  # keys in which runs of a comparison may differ
    *("seed", "compress_bits", "run_name", "show_progress", "state"),
    "cuda_graphs",  # earlier versions' comparisons have no such key, and no result depends on it
)
_SHOWN = 4  # differences that an error message names

Line = dict[str, Any]
"""A finished run as `runs.jsonl` keeps it."""


class Folder:
    """A comparison on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.shown = path
        self.lines = self.path / "runs.jsonl"
        self._settings = self.path / "settings.json"

    @contextmanager
    def lock(self, request: Request) -> Iterator[None]:
        """Keep other comparisons out of the folder, which is created if it does not exist.

        Raises:
            ConfigurationError: It holds a comparison with other settings.
            UserError: It cannot be written, or another process is at work in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")
        except OSError as error:
            raise UserError(
                f"--output must be a folder that can be written; got {self.shown}: {error.strerror}"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another comparison is at work in {self.shown}: wait for it, or give another "
                    "--output"
                ) from None
            self._keep(_settings(request))
            yield

    def path_of(self, run: Run) -> Path:
        """Return the working folder of a run."""
        return self.path / "runs" / run.name

    def finished_runs(self) -> dict[Run, Line]:
        """Read the runs in `runs.jsonl`; remove a last line that a kill cut off.

        Raises:
            UserError: Another line is damaged.
        """
        if not self.lines.exists():
            return {}
        *whole, cut = self.lines.read_text(encoding="utf-8").split("\n")
        if cut:
            write_whole(self.lines, "".join(f"{line}\n" for line in whole))
        runs = {}
        for number, text in enumerate(whole, 1):
            try:
                line = json.loads(text)
                runs[Run(line["model"], line["bits"], line["seed"])] = line
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.lines} is damaged: line {number} is no run; remove that line and start "
                    "again, its run is then repeated"
                ) from None
        return runs

    def add(self, line: Line) -> None:
        """Append a finished run in one write, which reaches the disk."""
        with open(self.lines, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
            os.fsync(file.fileno())

    def forget_checkpoints(self, run: Run) -> None:
        """Remove the checkpoints of a finished run; its result stays."""
        for file in (self.path_of(run) / "saved").glob("*.pth"):
            file.unlink()

    def _keep(self, settings: dict[str, Any]) -> None:
        kept = {"dataset": settings["dataset"], "models": {}}
        if self._settings.exists():
            try:
                kept = json.loads(self._settings.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(
                    f"{self._settings} is damaged: give another --output, or remove the file if "
                    "the runs in the folder have the settings of this command"
                ) from None
            self._refuse_other(kept, settings)
        models = {**kept["models"], **settings["models"]}
        write_whole(self._settings, json.dumps({**settings, "models": models}, indent=1) + "\n")

    def _refuse_other(self, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        pairs = [({"dataset": kept["dataset"]}, {"dataset": now["dataset"]})]
        common = [model for model in now["models"] if model in kept["models"]]
        pairs += [(kept["models"][model], now["models"][model]) for model in common]
        differences = dict.fromkeys(
            f"{key} is {old.get(key)} there and {new.get(key)} now"
            for old, new in pairs
            for key in sorted({**old, **new})
            if old.get(key) != new.get(key)
        )
        if differences:
            shown = "; ".join([*differences][:_SHOWN])
            more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
            raise ConfigurationError(
                f"{self.shown} holds a comparison with other settings: {shown}{more}; "
                "give another --output, or the same settings to continue it"
            )


def _settings(request: Request) -> dict[str, Any]:
    """Return the data set and, for each model, the parameters that all runs share."""
    models = {}
    for twin in request.twins:
        for model, bits in ((stock_name_of(get_model(twin)), None), (twin, 32)):
            config = request.config(Run(model, bits, request.seeds[0])).to_plain()
            if config.get("compress_seed") == config["seed"]:
                del config["compress_seed"]
            models[model] = {k: v for k, v in config.items() if k not in _PER_RUN}
    plain = {"dataset": request.dataset, "models": models}
    return json.loads(json.dumps(plain))  # tuples are lists, as in the file
