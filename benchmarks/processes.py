"""Where benchmarks put results, and what surrounds those that measure in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def environment() -> dict[str, str]:
    """Of a measured process: `benchmarks` is found, huge pages are on as on the command line."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"THP_MEM_ALLOC_ENABLE": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
