"""Wall clock and busy time of a step, what it launches and where it waits: stock and twin.

    python -m benchmarks.gpu.launches --results FILE [--device cpu --dataset NAME --data_path DIR]

A step that is slower than its work waits for Python to launch kernels: wall over busy says by how
much. Steps are taken in passes of the trainer (`suite.steps`), first against the clock, then in the
profiler, whose own cost is so left out of the wall. Twins are measured as they train by default,
and without `cuda_graphs`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.trace import summarize
from benchmarks.suite.cases import Case, Models, select_cases
from benchmarks.suite.memory import first_line
from benchmarks.suite.run import chosen, write_whole
from benchmarks.suite.steps import WARM_UP_STEPS, drawn, now, phases_of, take_steps
from benchmarks.suite.variants import VARIANTS, Variant

NUM_PROFILED = 10
NUM_TIMED = 50
CASES = "TinyKGAT,TinyKGAT-amazon-book,TinyKGCN,TinyKGNNLS,TinyKGIN,TinyRippleNet"


def main() -> None:
    """Measure every case; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cases", default=CASES, help="of the suite, with commas")
    parser.add_argument("--steps", type=int, default=NUM_TIMED, help="timed")
    parser.add_argument("--dataset", default="", help="default: each case's own")
    parser.add_argument("--data_path", default="", help="folder of the files of --dataset")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # RecBole's, about its age
    args.gpu_id = "0" if args.device == "cuda" else ""
    found: dict[str, Any] = {}
    for name in args.cases.split(","):
        (case,) = (chosen(args, case) for case in select_cases([name]) if case.name == name)
        found[name] = measure(case, {"gpu_id": args.gpu_id}, args.steps)
        write_whole(args.results, found)
        for variant, phases in found[name].items():
            print(name, variant, json.dumps(phases), flush=True)


def variants() -> dict[str, Variant]:
    """Return stock and the twin at 2 bits, with CUDA graphs and without."""
    stock, twin = VARIANTS["stock"], VARIANTS["tiny2"]
    eager = Variant("eager", "{twin}, no graphs", twin.bits, settings={"cuda_graphs": False})
    return {"stock": stock, "twin": twin, "twin without graphs": eager}


def measure(case: Case, device: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """Return the numbers by variant and phase; the message of one that failed."""
    found, models = {}, Models(case, device)
    for name, variant in variants().items():
        try:
            experiment = models.of(variant)
            found[name] = {
                phase: measure_phase(experiment, mode, loss, num_steps)
                for phase, (mode, loss) in phases_of(case, experiment.model.train()).items()
            }
        except Exception as error:  # the other variants are measured all the same
            found[name] = {"error": first_line(error)}
    return found


def measure_phase(experiment: Any, mode: Any, loss: Any, num_steps: int) -> dict[str, Any]:
    """Return wall clock, and what the profile says, of a step of a phase."""
    device = experiment.model.device
    take_steps(experiment, drawn(experiment, mode, WARM_UP_STEPS), loss)
    batches = drawn(experiment, mode, num_steps)
    start = now(device)
    take_steps(experiment, batches, loss)
    wall = 1e3 * (now(device) - start) / num_steps
    found = profiled(experiment, drawn(experiment, mode, NUM_PROFILED), loss)
    busy = found["busy_ms"]
    return {"wall_ms": wall, "wall_over_busy": wall / busy if busy else None, **found}


def profiled(experiment: Any, batches: Any, loss: Any) -> dict[str, Any]:
    """Take the steps in the profiler, and read its trace."""
    on_gpu = experiment.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        take_steps(experiment, batches, loss)
        now(experiment.model.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return summarize(events, len(batches))


if __name__ == "__main__":
    main()
