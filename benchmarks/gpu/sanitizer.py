"""compute-sanitizer over every operator: memory errors, and races in shared memory.

    python -m benchmarks.gpu.sanitizer --results FILE [--device cpu]

`memcheck` finds reads and writes outside of an allocation, `racecheck` threads of a block that use
shared memory in an order that nothing ensures. Both tools run `operator_calls`, side by side. On
the CPU, or without the program, the calls run alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, environment

TOOLS = ("memcheck", "racecheck")
FOUND = 97  # exit status of the tool when it has found something
TAIL = 3000


def main() -> None:
    """Run both tools, or the calls alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    calls = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.operator_calls"]
    commands = {"alone": [*calls, f"--device={args.device}"]}
    if args.device == "cuda" and (program := find_program()):
        for tool in TOOLS:
            options = [f"--tool={tool}", f"--error-exitcode={FOUND}"]
            commands[tool] = [program, *options, *commands["alone"]]
    found: dict[str, Any] = {}
    with ThreadPoolExecutor(len(commands)) as pool:
        running = {name: pool.submit(run, command) for name, command in commands.items()}
        for name, result in running.items():
            found[name] = result.result()
            args.results.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(name, found[name]["status"], found[name]["tail"][-300:], flush=True)
    sys.exit(any(result["status"] for result in found.values()))


def find_program() -> str | None:
    """Return the path of compute-sanitizer, if the toolkit has it."""
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    folders = [toolkit / "bin", toolkit / "compute-sanitizer"]
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(map(str, folders))
    )


def run(command: list[str]) -> dict[str, Any]:
    """Run a command; return status, seconds and the end of its output."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = round(time.perf_counter() - start, 1)
    return {"status": done.returncode, "seconds": seconds, "tail": done.stdout[-TAIL:]}


if __name__ == "__main__":
    main()
