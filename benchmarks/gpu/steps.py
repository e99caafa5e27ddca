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
    data = ("--dataset", SMALL, "--data_path", str(plan.folder / "data")) if small else ()

    def module(name: str, *arguments: object, results: str) -> tuple[str, ...]:
        command = (sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}")
        return (*command, "--results", str(plan.part(results)), *map(str, arguments))

    install = ["--site", plan.site, "--device", plan.device]
    install += ["--wheels", plan.wheels] if plan.wheels else []
    device = ("--device", plan.device)
    few = ("--twins", "TinyKGAT,TinyKGCN") if small else ()
    files = ("--files", "test_spmm") if small else ()
    cases = ("--cases", "TinyKGAT,TinyKGCN") if small else ()
    write = module(
        "gpu.small_data", "--folder", plan.folder / "data", "--name", SMALL, results="data"
    )
    return [
        Step("install", 170, module("gpu.install", *install, results="install")),
        *([Step("data", 60, write)] if small else []),
        Step("smoke", 110, module("gpu.smoke", *device, *few, *data, results="smoke")),
        Step("tests", 120, module("gpu.cuda_tests", *files, results="tests")),
        Step("suite", 150, module("gpu.suite_cases", *device, *cases, *data, results="suite")),
        Step("kernels", 40, module("gpu.kernel_rates", *device, results="kernels")),
        Step("launches", 70, module("gpu.launches", *device, *cases, *data, results="launches")),
        Step("sanitizer", 60, module("gpu.sanitizer", *device, results="sanitizer")),
    ]
