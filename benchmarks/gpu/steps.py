"""What a run does, in order of worth, and how long each step may take.

A step is a command with a limit in seconds. It writes what it finds into a file of its own as it
goes, so that a step that is stopped leaves what it had. On the CPU, to try the kit itself, the same
steps run on a small synthetic data set.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

SMALL = "small"  # name of the synthetic data set
SLOWER = 4  # times, that a trial on a few cores may take


@dataclass(frozen=True)
class Step:
    """A command with a limit."""

    name: str
    seconds: int
    command: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Where a run works, and on what."""

    device: str  # cuda or cpu
    folder: Path  # for parts of results, packages and data
    wheels: Path | None = None

    @property
    def site(self) -> Path:
        """The folder that wheels are unpacked in."""
        return self.folder / "site"

    def part(self, name: str) -> Path:
        """Return the file of a step's findings."""
        return self.folder / "parts" / f"{name}.json"


def steps(plan: Plan) -> list[Step]:
    """Return the steps of a run."""
    small = plan.device == "cpu"
    device = ["--device", plan.device]
    install = [*device, "--site", plan.site, *(["--wheels", plan.wheels] if plan.wheels else [])]
    folder, names = plan.folder / "data", "TinyKGAT,TinyKGCN"
    data = ["--dataset", SMALL, "--data_path", folder] if small else []
    cases = ["--cases", names, *data] if small else []
    table: list[tuple[str, int, str, list[object]]] = [
        ("install", 170, "install", install),
        ("data", 30, "small_data", ["--folder", folder, "--name", SMALL]),
        ("smoke", 110, "smoke", [*device, *(["--twins", names, *data] if small else [])]),
        ("tests", 120, "cuda_tests", ["--files", "test_spmm"] if small else []),
        ("suite", 150, "suite_cases", [*device, *cases, *(["--rounds", 1] if small else [])]),
        ("kernels", 40, "kernel_rates", device),
        ("launches", 70, "launches", [*device, *cases]),
        ("sanitizer", 60, "sanitizer", device),
    ]
    return [
        Step(name, seconds * (SLOWER if small else 1), command(plan, name, module, arguments))
        for name, seconds, module, arguments in table
        if small or name != "data"
    ]


def command(plan: Plan, name: str, module: str, arguments: list[object]) -> tuple[str, ...]:
    """Return the command of a step."""
    python = (sys.executable, "-W", "ignore", "-m", f"benchmarks.gpu.{module}")
    return (*python, "--results", str(plan.part(name)), *map(str, arguments))
