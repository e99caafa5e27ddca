"""The tests that need a GPU, a process for each file, several at once.

    python -m benchmarks.gpu.cuda_tests --results FILE [--files PATTERN,...]

A file is among them if it asks for a CUDA device, or its name says that its subject behaves
otherwise there (`ALSO`). Files are the unit because an error in a kernel ends all use of CUDA in
its process. Of pytest's plugins only the timeout is loaded: those of the machine, such as xdist or
benchmarks, warn about each other, and warnings are errors here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.processes import ROOT, environment

ASKS_FOR_A_GPU = ("torch.cuda.is_available()", "DEVICES", "cuda_graphs")
ALSO = ("test_cuda", "test_spmm", "test_meter", "test_loop", "test_plan", "test_convolution")
LEFT_OUT = ("test_cuda_emulation", "test_suite", "test_gpu")  # the same without and with a GPU
FIRST = ("test_cuda_kernels", "test_plan")  # the slowest
PLUGINS = ["-p", "pytest_timeout", "-p", "no:cacheprovider"]
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "2"}
ALONE |= {"OPERATOR_EXAMPLES": "25"}  # of 150 that the properties take elsewhere
NUM_PROCESSES = 6
TAIL = 3000


def main() -> None:
    """Run the files; the results are written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--files", default="", help="names of test files; default: see above")
    parser.add_argument("--processes", type=int, default=min(NUM_PROCESSES, os.cpu_count() or 1))
    args = parser.parse_args()
    paths = test_files()
    if args.files:
        paths = [path for path in paths if path.stem in args.files.split(",")]
    found: dict[str, Any] = {}
    with ThreadPoolExecutor(args.processes) as pool:
        running = {pool.submit(run_file, path): path for path in paths}
        for run in as_completed(running):
            found[str(running[run].relative_to(ROOT))] = run.result()
            args.results.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for name, counts in found.items():
        print(name, {key: value for key, value in counts.items() if key != "tail"})
    sys.exit(any(counts["status"] for counts in found.values()))


def test_files() -> list[Path]:
    """Return the files to run, the slowest first."""
    every = sorted((ROOT / "tests").rglob("test_*.py"))
    chosen = [path for path in every if needs_gpu(path.stem, path.read_text(encoding="utf-8"))]
    return sorted(chosen, key=lambda path: not path.stem.startswith(FIRST))


def needs_gpu(name: str, text: str) -> bool:
    """Whether a test file has something to say about a GPU."""
    asks = any(words in text for words in ASKS_FOR_A_GPU)
    return not name.startswith(LEFT_OUT) and (asks or name.startswith(ALSO))


def run_file(path: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Run a file; return its counts, the names of what failed, and the end of the output."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *PLUGINS]
        command += [f"--junitxml={report}", f"--basetemp={folder}/tmp", str(path), *options]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment(), **ALONE},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        counts = read_report(report) if report.exists() else {}
    seconds = round(time.perf_counter() - start, 1)
    tail = done.stdout[-TAIL:] if done.returncode else ""
    return {**counts, "status": done.returncode, "seconds": seconds, "tail": tail}


def read_report(path: Path) -> dict[str, Any]:
    """Return how many passed, failed and were skipped, and the names of those that failed."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        tags = {child.tag for child in case}
        bad = "failed" if tags & {"failure", "error"} else ""
        outcome = bad or ("skipped" if "skipped" in tags else "passed")
        outcomes[outcome].append(str(case.get("name")))
    numbers: dict[str, Any] = {name: len(cases) for name, cases in outcomes.items()}
    return {**numbers, "names": outcomes["failed"]}


if __name__ == "__main__":
    main()
