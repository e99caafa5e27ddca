"""Runs the steps one after the other, and writes all that is known after each.

    benchmarks/gpu/run --wheels DIR [--output DIR]

A step that fails or runs out of time stops no other: it is ended with all its processes, and what
it had found so far is kept, with the end of its output. While a step runs, the report is renewed
every few seconds, so that a machine that is taken away leaves what it had. This part needs the
standard library alone, as nothing else is there before the first step.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import report
from benchmarks.gpu.steps import Plan, Step, steps
from benchmarks.processes import RESULTS, ROOT

LIMIT = 470  # seconds of the whole run
LEAST = 5  # seconds that a step is begun for
RENEWED = 5  # seconds between reports
TAIL = 4000  # bytes of output kept of a step that failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps, or those asked for; 0 if all ended well."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run", description=report.ABOUT)
    parser.add_argument("--wheels", type=Path, default=None, help="folder of packages to unpack")
    parser.add_argument("--output", type=Path, default=None, help="folder; default: of results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: in small")
    parser.add_argument("--dry-run", dest="device", action="store_const", const="cpu")
    parser.add_argument("--steps", default="", help="names, with commas; default: all")
    parser.add_argument("--limit", type=float, default=None, help=f"seconds; default: {LIMIT}")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu", help="to work in")
    args = parser.parse_args(argv)
    wheels = args.wheels.resolve() if args.wheels else None
    plan = Plan(args.device, args.folder.resolve(), wheels)
    every = steps(plan)
    wanted = args.steps.split(",") if args.steps else [step.name for step in every]
    if unknown := set(wanted) - {step.name for step in every}:
        parser.error(f"--steps must be of {', '.join(s.name for s in every)}; got {unknown}")
    chosen = [step for step in every if step.name in wanted]
    limit = args.limit or (LIMIT if args.device == "cuda" else sum(s.seconds for s in chosen))
    output = args.output or (RESULTS / "gpu" if args.device == "cuda" else plan.folder / "results")
    ended = run_all(chosen, plan, output.resolve(), limit)
    print((output / "gpu.md").read_text(encoding="utf-8"))
    return 0 if all(step["status"] == 0 for step in ended) else 1


def run_all(chosen: list[Step], plan: Plan, output: Path, limit: float) -> list[dict[str, Any]]:
    """Run the steps within the limit; return how each ended."""
    for folder in (plan.folder / "parts", output):
        folder.mkdir(parents=True, exist_ok=True)
    begun, ended = time.monotonic(), []

    def write(running: dict[str, Any] | None = None) -> None:
        now = [*ended, running] if running else ended
        report.write(output, found(chosen, plan), now, plan.device)

    for step in chosen:
        left = limit - (time.monotonic() - begun)
        allowed = replace(step, seconds=int(min(step.seconds, left)))
        print(f"{step.name} (at most {allowed.seconds} s) ...", flush=True)
        plan.part(step.name).unlink(missing_ok=True)
        ended.append(run_step(allowed, plan, write))
        print(f"{step.name}: {ended[-1]['ended']} after {ended[-1]['seconds']} s", flush=True)
        write()
    return ended


def run_step(step: Step, plan: Plan, renew: Callable[..., None]) -> dict[str, Any]:
    """Run a step until it ends or its time is over; return how it ended."""
    about: dict[str, Any] = {"name": step.name, "limit": step.seconds, "status": None}
    if step.seconds < LEAST:
        return {**about, "ended": "not begun: no time left", "seconds": 0, "tail": ""}
    log, begun = plan.folder / f"{step.name}.log", time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=environment(plan),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group that can be ended together
        )
        try:
            status = wait(process, begun + step.seconds, lambda: renew({**about, "ended": "runs"}))
        finally:
            end_group(process)
    how = "out of time" if status is None else "done" if status == 0 else f"status {status}"
    tail = "" if status == 0 else log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    seconds = round(time.monotonic() - begun, 1)
    return {**about, "status": status, "ended": how, "seconds": seconds, "tail": tail}


def wait(process: subprocess.Popen[Any], deadline: float, renew: Callable[[], None]) -> int | None:
    """Return the status of a process, None if it has none at the deadline."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            return process.wait(min(left, RENEWED))
        except subprocess.TimeoutExpired:
            renew()
    return None


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it started, also what it left behind when it ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def environment(plan: Plan) -> dict[str, str]:
    """Return that of a step: the repository and the unpacked packages come before all others."""
    paths = [str(ROOT), *([str(plan.site)] if plan.wheels else [])]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def found(chosen: list[Step], plan: Plan) -> dict[str, Any]:
    """Return what the steps have written so far; a file that is being written is left out."""
    parts = {}
    for step in chosen:
        try:
            parts[step.name] = json.loads(plan.part(step.name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return parts
