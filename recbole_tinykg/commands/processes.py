"""What the processes that commands start have in common."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """That of this process, in which a module of this package is found from any folder."""
    package = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([package, *([others] if others else [])])}
