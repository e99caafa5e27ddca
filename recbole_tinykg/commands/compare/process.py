"""Starts the process of a run, waits for it, and says in a line why it failed if it did."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.compare import worker
from recbole_tinykg.commands.compare.folder import Folder, Line
from recbole_tinykg.commands.compare.runs import Request, Run
from recbole_tinykg.commands.processes import environment

LOG = "output.log"
_SECONDS_TO_END = 10


def make(run: Run, request: Request, folder: Folder) -> Line | str:
    """Train a run in a process of its own, unless its result is there already.

    Returns:
        The finished run, or why it failed.
    """
    place = folder.of(run)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / worker.RESULT).exists():
        write_whole(place / worker.JOB, json.dumps(_job(run, request)))
        failure = _train(place)
        if failure:
            return failure
    return json.loads((place / worker.RESULT).read_text(encoding="utf-8"))


def _job(run: Run, request: Request) -> dict[str, Any]:
    return {
        "run": {"model": run.model, "bits": run.bits, "seed": run.seed},
        "name": run.name,
        "dataset": request.dataset,
        "config_files": request.config_files,
        "argv": request.arguments(run),
    }


def _train(place: Path) -> str:
    """Return an empty text, or why the process failed."""
    with open(place / LOG, "ab") as log:
        begin = log.tell()
        with subprocess.Popen(
            [*worker.COMMAND, str(place)],
            stdin=subprocess.PIPE,  # whose end tells the process that this one has ended
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,  # Ctrl-C comes here, and only here
        ) as child:
            try:
                status = child.wait()
            except BaseException:
                _end(child)
                raise
    return "" if status == 0 else _reason(status, place / LOG, begin)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _reason(status: int, log: Path, begin: int) -> str:
    """The last line of output, or the signal that ended the process."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps by the system because memory ran out" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"
    with open(log, "rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return last.removeprefix("error: ")
