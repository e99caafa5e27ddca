"""All twins train two epochs on the GPU, and end where the same run ends on the CPU.

    python -m benchmarks.gpu.smoke --results FILE [--device cpu --data_path DIR --dataset NAME]

Both runs start from the same weights, draw the same batches and round with the same noise, so they
differ by the order of sums and, where a stock model's own dropout is in the loss, by its masks. Two
epochs let such differences grow. They count as alike

* if every epoch's loss differs by at most `LOSS_SHARE`: between CPU runs with other seeds of noise
  and dropout it was 0.5 % at most, and from the first epoch to the second it falls by 3 to 36 %;
* and every metric by at most `SIGMAS` standard errors of the difference of two means over users. A
  metric lies between 0 and 1, so a user's variance is at most m(1 - m) at the mean m, and
  the difference of two rankings of n users has at most sqrt(2 m(1 - m) / n).

Each run is a process, several at once: only results count here, not time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.processes import environment

TWINS = (  # the slowest first
    "TinyMCCLK TinyRippleNet TinyMKR TinyKTUP TinyKGIN TinyKGAT TinyKGNNLS TinyKGCN TinyCKE "
    "TinyCFKG"
).split()
SETTINGS: dict[str, dict[str, Any]] = {  # all of ml-100k takes minutes and gigabytes for a step
    "TinyMCCLK": {"entity_kg_num_interval": "[20,inf)", "train_batch_size": 512}
}
LOSS_SHARE = 0.01
SIGMAS = 3.0
EPOCHS = 2


def main() -> None:
    """Train everything on both devices; the file is written after each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--twins", default=",".join(TWINS))
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="", help="folder of the files of --dataset")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--one", nargs=2, default=None, help=argparse.SUPPRESS)  # twin, device
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(*args.one, args.dataset, args.data_path)))
        return
    runs: dict[str, dict[str, Any]] = {name: {} for name in args.twins.split(",")}
    with ThreadPoolExecutor(args.processes) as pool:
        started = {
            pool.submit(train_apart, args, name, device): (name, key)
            for name in runs
            for key, device in (("device", args.device), ("cpu", "cpu"))
        }
        for run in as_completed(started):
            name, key = started[run]
            runs[name][key] = run.result()
            runs[name]["verdict"] = verdict(runs[name])
            args.results.write_text(json.dumps(runs, indent=1), encoding="utf-8")
    for name, found in runs.items():
        print(name, found["verdict"])
    sys.exit(any(found["verdict"] != "alike" for found in runs.values()))


def train_apart(args: argparse.Namespace, name: str, device: str) -> dict[str, Any]:
    """Train in a process of its own; return its answer, or the end of what it said."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.smoke", "--one", name, device]
    command += [f"--dataset={args.dataset}", f"--data_path={args.data_path}"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.processes))}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**environment(), **threads}
    )
    if done.returncode:
        return {"error": done.stderr.strip()[-2000:] or f"status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def train(name: str, device: str, dataset: str, data_path: str) -> dict[str, Any]:
    """Train in this process; return losses, metrics, users, seconds."""
    from recbole_tinykg import prepare

    warnings.simplefilter("ignore")  # RecBole's, about its age
    given = {"epochs": EPOCHS, "gpu_id": "0" if device == "cuda" else "", "state": "ERROR"}
    given |= {"show_progress": False, **SETTINGS.get(name, {})}
    given |= {"data_path": data_path} if data_path else {}
    start = time.perf_counter()
    experiment = prepare(name, dataset, config_dict=given)
    trainer = experiment.trainer
    _, metrics = trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    losses = [parts_of(trainer.train_loss_dict[epoch]) for epoch in range(EPOCHS)]
    return {
        "device": str(experiment.model.device),
        "losses": losses,
        "metrics": {key: float(value) for key, value in metrics.items()},
        "users": experiment.dataset.user_num - 1,
        "seconds": time.perf_counter() - start,
    }


def parts_of(loss: Any) -> list[float]:
    """Return an epoch's loss, or its parts, as numbers."""
    return [float(part) for part in (loss if isinstance(loss, tuple) else (loss,))]


def verdict(runs: Mapping[str, Any]) -> str:
    """Return `alike`, or in what the two runs of a twin differ."""
    if "device" not in runs or "cpu" not in runs:
        return "not finished"
    failed = [f"{key}: {runs[key]['error']}" for key in ("device", "cpu") if "error" in runs[key]]
    if failed:
        return "fails on " + "; ".join(line.splitlines()[0] + " …" for line in failed)
    return "; ".join(differences(runs["device"], runs["cpu"])) or "alike"


def differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the losses and metrics that differ by more than the noise of training."""
    found = []
    for epoch, (losses, expected) in enumerate(zip(mine["losses"], other["losses"], strict=True)):
        for loss, known in zip(losses, expected, strict=True):
            if not abs(loss - known) <= LOSS_SHARE * abs(known):  # true of NaN, too
                found.append(f"loss of epoch {epoch}: {loss:.6g}, on the CPU {known:.6g}")
    for name, known in other["metrics"].items():
        allowed = SIGMAS * math.sqrt(2 * known * (1 - known) / other["users"])
        if not abs(mine["metrics"][name] - known) <= allowed:
            found.append(f"{name}: {mine['metrics'][name]:.4f}, on the CPU {known:.4f}")
    return found


if __name__ == "__main__":
    main()
