"""Starts the process of a run and waits for its result."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands import child
from recbole_tinykg.commands.compare import worker
from recbole_tinykg.commands.compare.folder import Folder, Line
from recbole_tinykg.commands.compare.runs import Request, Run

LOG = "output.log"


def make(run: Run, request: Request, folder: Folder) -> Line | str:
    """Train a run in a process of its own, unless its result is there already.

    Returns:
        The finished run, or why it failed.
    """
    place = folder.path_of(run)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / worker.RESULT).exists():
        job = {
            "run": {"model": run.model, "bits": run.bits, "seed": run.seed},
            "name": run.name,
            "dataset": request.dataset,
            "config_files": request.config_files,
            "argv": request.arguments(run),
        }
        write_whole(place / worker.JOB, json.dumps(job))
        failure = _train(place)
        if failure:
            return failure
    return json.loads((place / worker.RESULT).read_text(encoding="utf-8"))


def _train(place: Path) -> str:
    """Train what the job in a folder says; return an empty text, or why it failed."""
    command = [*worker.COMMAND, str(place)]
    with open(place / LOG, "a+b") as log:
        begin = log.seek(0, 2)
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        # of a session of its own: Ctrl-C comes to the comparison, and only there
        with child.started(command, **streams, start_new_session=True) as process:
            status = process.wait()
        log.seek(begin)
        return child.why_failed(status, log.read().decode(errors="replace")) if status else ""
