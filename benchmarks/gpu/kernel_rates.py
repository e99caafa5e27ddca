"""The operators' share of `copy_`'s bandwidth, and the sparse product against the library's.

    python -m benchmarks.gpu.kernel_rates --results FILE [--device cpu]

`benchmarks.kernels` and `benchmarks.spmm`, at the sizes of the numbers asked for: matrices of 64
float32 columns with 4 million, 1 million and 184,000 rows, the last as many as Amazon-Book's graph
has nodes, and that graph's size for the product.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, environment

SHAPES = {"cuda": "4000000x64,1000000x64,184000x64", "cpu": "2000x64"}
GRAPHS = {"cuda": "power-law", "cpu": ""}


def main() -> None:
    """Run both; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    commands = {
        "operators": ["kernels", f"--shapes={SHAPES[args.device]}", "--bits=2,8"]
        + ["--dtypes=float32", f"--devices={args.device}", "--repeats=20"],
    }
    if GRAPHS[args.device]:
        commands["spmm"] = ["spmm", f"--graphs={GRAPHS[args.device]}", "--widths=64"]
        commands["spmm"] += ["--threads=1", f"--device={args.device}"]
    for name, (module, *options) in commands.items():
        found[name] = run(module, options)
        args.results.write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.exit(any("error" in part for part in found.values()))


def run(module: str, options: list[str]) -> dict[str, Any]:
    """Run a benchmark and return its last line, or what it said when it failed."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *options]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=ROOT, env=environment(), text=True, check=False, **streams)
    print(done.stdout, flush=True)
    if done.returncode:
        return {"error": done.stdout[-3000:]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
