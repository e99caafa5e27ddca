"""The suite on a GPU: bytes of all cases side by side, then seconds of one after the other.

    python -m benchmarks.gpu.suite_cases --results FILE [--cases TinyKGAT,TinyKGCN]

Stock, and the twin at 32 and 2 bits, by `benchmarks.suite.run` in processes of its own. Bytes are
an allocator's count in each process, so the processes may share the GPU; seconds may not. The cases
that were slower than stock come first, for a run that is cut short.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, environment

CASES = (
    "TinyKGAT TinyKGAT-amazon-book TinyKGCN TinyKGNNLS TinyKGIN TinyRippleNet TinyKGAT-64-32-16"
).split()
VARIANTS = "stock,tiny32,tiny2"


def main() -> None:
    """Measure the cases; what is known is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cases", default=",".join(CASES), help="with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", default="", help="default: each case's own")
    parser.add_argument("--data_path", default="", help="folder of the files of --dataset")
    args = parser.parse_args()
    cases, folder = args.cases.split(","), args.results.parent / "suite"
    status: dict[str, int] = {}
    memory = [(case, start(args, case, "memory", folder)) for case in cases]
    for case, process in memory:
        status[f"{case} memory"] = process.wait()
    collect(args.results, folder, status)
    for case in cases:
        begun = time.perf_counter()
        status[f"{case} time"] = start(args, case, "time", folder).wait()
        print(f"{case}: {time.perf_counter() - begun:.0f} s", flush=True)
        collect(args.results, folder, status)
    sys.exit(any(status.values()))


def start(args: argparse.Namespace, case: str, part: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the measurement of a part of a case."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.suite.run", "--one", case, part]
    command += [f"--results={folder}", f"--variants={VARIANTS}", f"--rounds={args.rounds}"]
    command += ["--gpu_id=0"] if args.device == "cuda" else []
    command += [f"--dataset={args.dataset}", f"--data_path={args.data_path}"]
    return subprocess.Popen(command, cwd=ROOT, env=environment())


def collect(path: Path, folder: Path, status: dict[str, int]) -> None:
    """Write what all cases have found so far, and how their processes ended."""
    found: dict[str, Any] = {"status": status}
    for file in sorted(folder.glob("*.json")):
        case, _, part = file.stem.rpartition(".")
        found.setdefault(case, {})[part] = json.loads(file.read_text(encoding="utf-8"))
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
