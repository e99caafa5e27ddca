"""The benchmark suite: every twin against its stock model and what a user would try instead.

    python -m benchmarks.suite.run                            # everything: memory, time, charts
    python -m benchmarks.suite.run --models TinyKGCN --parts memory
    python -m benchmarks.suite.run --models TinyKGAT --variants bf16,tiny2 --results /tmp/suite
    python -m benchmarks.suite.run --parts charts             # tables and charts of what is there

Every case (a model with its data and settings, `cases.py`) and part (`memory.py`, `timing.py`) runs
in a process of its own and leaves a JSON file in `--results`. What is there, with the same settings
and the variants asked for among its own (`variants.py`), is not measured again unless `--again` is
given: a run that was interrupted goes on where it was. Last, tables (`tables.py`, written to
`README.md`) and charts (`charts.py`) are made of all files in the folder, those of earlier runs
too. The last line printed is JSON: the summary.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import RESULTS, environment, processor

SUITE = RESULTS / "suite"
MEASURED = ("memory", "time")


def main() -> None:
    """Measure what is missing, then print tables and draw charts."""
    args = parse_args()
    if args.one:
        measure_one(args, *args.one)
        return
    from benchmarks.suite.cases import select_cases
    from benchmarks.suite.variants import choose_variants

    choose_variants(args.variants, device_of(args))  # a wrong name is told before anything runs
    failed = []
    for case in (chosen(args, case) for case in select_cases(args.models)):
        for part in (part for part in MEASURED if part in args.parts):
            if args.again or not is_done(path_of(args, case.name, part), request(args, case, part)):
                failed += [] if run_apart(args, case.name, part) else [f"{case.name}: {part}"]
    if "charts" in args.parts:
        report(args.results)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser.add_argument("--models", type=names, default=[], help="twins or cases; default: all")
    parser.add_argument("--variants", type=names, default=[], help="default: all but anomaly")
    parser.add_argument("--parts", type=names, default=[*MEASURED, "charts"])
    parser.add_argument("--rounds", type=int, default=None, help="timed; default: each case's own")
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument("--gpu_id", default="", help="as in RecBole; empty: the CPU")
    parser.add_argument("--dataset", default="", help="default: each case's own")
    parser.add_argument("--data_path", default="", help="folder of the files of --dataset")
    parser.add_argument("--results", type=Path, default=SUITE, help="folder of the JSON files")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)  # case, part
    args = parser.parse_args()
    if unknown := set(args.parts) - {*MEASURED, "charts"}:
        parser.error(f"--parts must be of memory, time, charts; got {', '.join(sorted(unknown))}")
    args.results = args.results.resolve()
    return args


def chosen(args: argparse.Namespace, case: Any) -> Any:
    """Return a case as it is to be measured on this device and these data."""
    case = case.on_gpu() if args.gpu_id else case
    return case.on_data(args.dataset, args.data_path) if args.dataset else case


def request(args: argparse.Namespace, case: Any, part: str) -> dict[str, Any]:
    """All that the numbers of a file depend on and that can be asked for."""
    from benchmarks.suite.variants import DEFAULT, choose_variants

    keys = args.variants or (*DEFAULT, *(case.extra_variants if part == "time" else ()))
    asked = {
        "settings": case.settings,
        "variants": [variant.key for variant in choose_variants(keys, device_of(args))],
        "device": "cuda" if args.gpu_id else "cpu",
        "threads": args.threads,
    }
    if part == "time":
        asked |= {"rounds": args.rounds or case.rounds, "batches": case.batches}
    return asked


def is_done(path: Path, asked: dict[str, Any]) -> bool:
    """Whether a whole file is there that answers the request."""
    try:
        answered = json.loads(path.read_text(encoding="utf-8"))["request"]
        variants = set(asked["variants"]) - set(answered["variants"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not variants and {**answered, "variants": None} == {**asked, "variants": None}


def path_of(args: argparse.Namespace, case: str, part: str) -> Path:
    """Return the file of a case and part."""
    return args.results / f"{case}.{part}.json"


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def run_apart(args: argparse.Namespace, case: str, part: str) -> bool:
    """Measure a case and part in a process of its own; whether it worked."""
    start = time.perf_counter()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.suite.run",
    ]  # warnings are RecBole's, about its age
    command += ["--one", case, part, f"--results={args.results}"]
    command += [f"--variants={','.join(args.variants)}", f"--gpu_id={args.gpu_id}"]
    for name in ("rounds", "threads", "dataset", "data_path"):
        command += [f"--{name}={getattr(args, name)}"] if getattr(args, name) else []
    print(f"{case}: {part} ...", end=" ", flush=True)
    code = subprocess.run(command, check=False, env=environment()).returncode
    print(f"exit status {code}" if code else f"{time.perf_counter() - start:.0f} s", flush=True)
    return code == 0


def measure_one(args: argparse.Namespace, name: str, part: str) -> None:
    """Measure a case and part in this process, and write its file."""
    import torch

    from benchmarks.suite import memory, timing
    from benchmarks.suite.cases import select_cases
    from benchmarks.suite.variants import choose_variants

    if args.threads:
        torch.set_num_threads(args.threads)
    (case,) = (chosen(args, case) for case in select_cases([name]) if case.name == name)
    asked = request(args, case, part)
    case = dataclasses.replace(case, rounds=args.rounds or case.rounds)
    variants = choose_variants(asked["variants"], device_of(args))
    start = time.perf_counter()
    measured = {"memory": memory, "time": timing}[part].measure(
        case, variants, {"gpu_id": args.gpu_id}
    )
    about = {
        "case": case.name,
        "stock": case.stock_name,
        "twin": case.twin,
        "dataset": case.dataset,
    }
    about |= {"note": case.note, "request": asked, "where": where(args)}
    about |= {"measured_for_seconds": round(time.perf_counter() - start)}
    write_whole(path_of(args, name, part), {**about, **measured})


def device_of(args: argparse.Namespace) -> Any:
    """Return the device that RecBole will choose.

    Raises:
        SystemExit: There is no GPU.
    """
    import torch

    if args.gpu_id and not torch.cuda.is_available():
        raise SystemExit(f"--gpu_id must name a GPU that PyTorch sees; got {args.gpu_id}")
    return torch.device("cuda" if args.gpu_id else "cpu")


def where(args: argparse.Namespace) -> dict[str, Any]:
    """Machine and versions."""
    import recbole
    import torch

    import recbole_tinykg

    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if args.gpu_id else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "recbole": recbole.__version__,
        "recbole_tinykg": recbole_tinykg.__version__,
    }


def report(folder: Path) -> None:
    """Tables and charts of all files of a folder."""
    from benchmarks.suite import charts, comparison, tables

    cases = comparison.load(folder)
    text = tables.page(cases)
    (folder / "README.md").write_text(text, encoding="utf-8")
    charts.draw(cases, folder)
    print(text)
    print(json.dumps(comparison.summary(cases)))


if __name__ == "__main__":
    main()
