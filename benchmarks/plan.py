"""How far the predictions of `plan` are from one real step: five models, two data sets.

    python -m benchmarks.plan --data_path DIR [--output results/plan]

Each configuration is predicted without training, then one step of each phase runs in a process of
its own under the package's meter. Writes `<output>.md` and `<output>.json`; configurations that
are in the JSON file already are not run again, so that an interrupted benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.processes import RESULTS
from recbole_tinykg import plan

BITS = (32, 8, 4, 2, 1)
TWINS = ("TinyKGAT", "TinyKGCN", "TinyKGNNLS", "TinyRippleNet", "TinyKGIN")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("TinyKGAT", {"layers": [64, 32, 16]}),
    ("TinyKGAT", {"aggregator_type": "graphsage", "embedding_size": 32, "layers": [32, 48]}),
    ("TinyKGAT", {"aggregator_type": "gcn", "train_batch_size": 777, "kg_embedding_size": 24}),
    ("TinyKGCN", {"n_iter": 2, "embedding_size": 32}),
    ("TinyKGCN", {"neighbor_sample_size": 8, "aggregator": "neighbor", "train_batch_size": 512}),
    ("TinyKGNNLS", {"n_iter": 2, "train_batch_size": 1000}),
    ("TinyRippleNet", {"embedding_size": 16, "n_hop": 3, "train_batch_size": 512}),
    ("TinyKGIN", {"embedding_size": 48, "n_factors": 3, "mess_dropout_rate": 0.2}),
]
DATASETS = ("ml-100k", "lastfm-kg")
QUANTITIES = ("resident", "rs saved", "rs peak", "kg saved", "kg peak", "refresh peak")


def cases() -> Iterable[tuple[str, str, dict[str, Any], tuple[int, ...]]]:
    """Return data set, twin, parameters and bits."""
    for dataset in DATASETS:
        yield from ((dataset, twin, {}, BITS) for twin in TWINS)
        yield from ((dataset, twin, given, (8, 2)) for twin, given in VARIANTS)


def compare(
    dataset: str, twin: str, given: dict[str, Any], bits: tuple[int, ...], own: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a row per planned model."""
    planned = plan(twin, dataset, bits=bits, measure=True, config_dict={**given, **own})
    return [{"dataset": dataset, "parameters": given, **row} for row in planned.to_dict()["models"]]


def largest(rows: list[dict[str, Any]], quantity: str) -> str:
    """Return the deviation that is farthest from 0, for a cell."""
    found = [row["deviations"][quantity] for row in rows if quantity in row["deviations"]]
    return f"{max(found, key=abs):+.2%}" if found else "-"


def table(rows: list[dict[str, Any]]) -> str:
    """Largest deviations, a line per model, data set and parameters."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        text = ", ".join(f"{key}={value}" for key, value in row["parameters"].items())
        groups.setdefault((row["dataset"], row["model"], text or "defaults"), []).append(row)
    lines = [["data set", "model", "parameters", "bits", *QUANTITIES]]
    lines.append(["---"] * len(lines[0]))
    for key, group in groups.items():
        bits = ", ".join(str(row["bits"]) for row in group if row["bits"]) or "stock"
        lines.append([*key, bits, *(largest(group, quantity) for quantity in QUANTITIES)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(output: Path, rows: list[dict[str, Any]]) -> None:
    """Write both files, whole or not at all."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    machine = {**versions, "machine": f"{platform.system()} {platform.machine()}, CPU"}
    problems = [row["problem"] for row in rows if row["problem"]]
    every = ", ".join(f"{quantity} {largest(rows, quantity)}" for quantity in QUANTITIES)
    text = f"""# Predicted against measured memory

`python -m benchmarks.plan`: {len(rows)} configurations, each predicted without training and then
measured on one real step of each phase (`meter`'s saved tensors and peak) in a process of its own.
Python {versions["python"]}, PyTorch {versions["torch"]}, CPU. The largest deviations of all:
{every}; without a number: {len(problems)}.

Cells: the deviation of the prediction that is farthest from zero, over the bits of the line.

{table(rows)}
"""
    for suffix, content in ((".md", text), (".json", json.dumps({**machine, "rows": rows}))):
        temporary = output.with_suffix(".tmp")
        temporary.write_text(content + ("\n" if suffix == ".json" else ""), encoding="utf-8")
        os.replace(temporary, output.with_suffix(suffix))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", required=True, help="folder with lastfm-kg")
    parser.add_argument("--output", type=Path, default=RESULTS / "plan")
    arguments = parser.parse_args()
    done = arguments.output.with_suffix(".json")
    rows = json.loads(done.read_text())["rows"] if done.is_file() else []
    have = {(row["dataset"], str(row["parameters"]), row["model"]) for row in rows}
    for dataset, twin, given, bits in cases():
        if (dataset, str(given), twin) not in have:
            own = {} if dataset == "ml-100k" else {"data_path": arguments.data_path}
            rows += compare(dataset, twin, given, bits, {**own, "state": "ERROR"})
            write(arguments.output, rows)
            print(f"{dataset} {twin} {given}", file=sys.stderr)
    print(arguments.output.with_suffix(".md").read_text())
    print(json.dumps({quantity: largest(rows, quantity) for quantity in QUANTITIES}))


if __name__ == "__main__":
    main()
