"""Child processes: started so that they end with the command, and why one failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SECONDS_TO_END = 10


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a process that can import this package; an error in the block, or Ctrl-C, ends it.

    Its standard input is a pipe that closes when this process ends, which tells the child.

    Args:
        command: Program and arguments.
        options: `stdout`, `stderr`, `text`, `start_new_session`, as `subprocess.Popen` takes them.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        env=environment(),
        **options,
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


def environment() -> dict[str, str]:
    """Return this process's environment, with its packages importable from any folder.

    This process may find them in other ways than the environment tells: in folders that a program
    put into `sys.path`, or by a PYTHONPATH that was relative to a folder it has left since.
    """
    package = str(Path(__file__).resolve().parents[2])
    others = [path for path in sys.path if os.path.isabs(path) and path != package]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([package, *others])}


def why_failed(status: int, output: str) -> str:
    """Return the last line of output, or the signal that ended the process."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps by the system because memory ran out" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"
    lines = [line.strip() for line in output.split("\n") if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"the process ended with status {status}"
