"""One run in a process and a folder of its own: `COMMAND FOLDER`.

`FOLDER/job.json` says what to train, `FOLDER/run.json` is the result, whole or absent. A run that
was killed continues from its last epoch. The process ends when its standard input does, that is,
together with the process that started it, even if that one was killed.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.errors import CheckpointError, UserError
from recbole_tinykg.quick_start import run_recbole_tinykg

JOB, RESULT = "job.json", "run.json"
COMMAND = (  # not `-m`, which warns if the package has imported the module already
    sys.executable,
    "-c",
    f"import sys; from {__name__} import main; sys.exit(main(sys.argv[1]))",
)


def main(folder: str) -> int:
    """Train what the folder's job says.

    Returns:
        0, or 2 for wrong input, which the last line of output explains.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    job = json.loads(Path(JOB).read_text(encoding="utf-8"))
    start = perf_counter()
    try:
        # of a run killed after it had finished
        file = RunFiles.in_folder("saved", job["name"]).result
        finished = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        result = finished or _train(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    whole = result["epochs"] == len(result["epoch_seconds"])  # not only the end of a killed run
    seconds = perf_counter() - start if whole and not finished else None
    line = {**job["run"], **summarize(result), "run_seconds": seconds}
    write_whole(Path(RESULT), json.dumps({**line, "process_peak_bytes": _peak_resident_bytes()}))
    return 0


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a comparison keeps of the result file of a run."""
    epochs = [seconds["total"] for seconds in result["epoch_seconds"]]
    return {
        "test": result["test_result"],
        "valid": result["best_valid_result"],
        "epochs": result["epochs"],
        "epoch_seconds": median(epochs) if epochs else None,
        "evaluation_seconds": median(result["evaluation_seconds"] or [0.0]),
        "memory": result["memory"],
        "splits": result["splits"],
        "device": result["device"],
        "versions": result["versions"],
    }


def _train(job: dict[str, Any]) -> dict[str, Any]:
    last = RunFiles.in_folder("saved", job["name"]).last
    arguments = (job["run"]["model"], job["dataset"], job["config_files"])
    try:
        resumed = last if last.exists() else None
        result = run_recbole_tinykg(*arguments, argv=job["argv"], resume=resumed)
    except CheckpointError as error:
        if resumed is None:
            raise
        logging.getLogger().warning(f"starts from the beginning: {error}")
        result = run_recbole_tinykg(*arguments, argv=job["argv"])
    return json.loads(Path(result["files"]["result"]).read_text(encoding="utf-8"))


def _peak_resident_bytes() -> int:
    """Return the most memory that this process had; on Linux without the process it forked from."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _end_with_parent() -> None:
    while os.read(0, 1):  # not through sys.stdin, which could not be closed meanwhile
        pass
    os.kill(os.getpid(), signal.SIGKILL)
