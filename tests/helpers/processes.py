"""Processes that a test starts: one that fails shows all that it printed, not only its status."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to a successful end; `stdout` and `stderr` are what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    told = f"{command} ended with status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    return done


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python code to a successful end."""
    return run([sys.executable, "-c", code, *arguments], **options)
