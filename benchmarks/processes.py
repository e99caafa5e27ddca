"""Where benchmarks put results, the machine, and the environment of processes that are measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def environment() -> dict[str, str]:
    """Of a measured process: `benchmarks` is found, huge pages are on as on the command line."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"THP_MEM_ALLOC_ENABLE": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def processor() -> str:
    """Return the CPU's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
