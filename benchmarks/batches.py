"""Seconds of what surrounds the step: batches, whole epoch, evaluation; ours against RecBole's.

    python -m benchmarks.batches --models TinyKGCN,TinyKGAT --repeats 5

Each twin is built three times: as it is; with `skip_unread_kg_batches`; and with RecBole's loaders,
loop and evaluation in place of ours. The first and the last train on the same batches to the same
weights. After a warm-up, rounds follow in which each loads the batches of an epoch, trains an epoch
and evaluates the validation set. Printed: medians, and in brackets the least and the most. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from recbole.evaluator import Collector
from recbole.trainer import Trainer
from recbole.utils import KGDataLoaderState

from benchmarks.processes import processor
from recbole_tinykg.data import loaders
from recbole_tinykg.quick_start import Experiment, prepare
from recbole_tinykg.quick_start import experiment as experiment_module
from recbole_tinykg.trainer import trainer

KINDS = ("RecBole's", "ours", "ours, unread triples skipped")
PARTS = ("batches", "epoch", "evaluation")


def main() -> None:
    """Measure the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="TinyKGCN,TinyKGNNLS,TinyKGIN,TinyRippleNet,TinyKGAT")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", help="the folder above the data set's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {model: measure(model, args) for model in args.models.split(",")}
    print("| model | loaders, loop, evaluation | batches, s | epoch, s | evaluation, s |")
    print("|---|---|---|---|---|")
    for model, kinds in rows.items():
        for kind, parts in kinds.items():
            print(f"| {model} | {kind} | {' | '.join(cell(parts[part]) for part in PARTS)} |")
    where = {"torch": torch.__version__, "threads": args.threads, "cpu": processor()}
    print(json.dumps({**where, "dataset": args.dataset, "seconds": rows}))


def measure(model: str, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds of every round, by kind and part."""
    experiments = {kind: build(model, kind, args) for kind in KINDS}
    seconds = {kind: {part: [] for part in PARTS} for kind in KINDS}
    for epoch in range(args.repeats + 1):
        for kind, experiment in experiments.items():
            for part, run in runs(experiment, kind, epoch).items():
                start = perf_counter()
                run()
                if epoch:
                    seconds[kind][part].append(perf_counter() - start)
    return seconds


def build(model: str, kind: str, args: argparse.Namespace) -> Experiment:
    """Return a twin of one kind."""
    parameters = {"gpu_id": "", "state": "ERROR", "skip_unread_kg_batches": kind == KINDS[2]}
    if args.data_path:
        parameters["data_path"] = args.data_path
    if kind != KINDS[0]:
        return prepare(model, args.dataset, config_dict=parameters)
    with patch.object(experiment_module, "data_preparation", loaders.recboles_data_preparation):
        experiment = prepare(model, args.dataset, config_dict=parameters)
    experiment.trainer.eval_collector = Collector(experiment.config)
    return experiment


def runs(experiment: Experiment, kind: str, epoch: int) -> dict[str, Callable[[], Any]]:
    """Return what is timed."""
    stepper, data = experiment.trainer, experiment.train_data

    def batches() -> None:
        joint = KGDataLoaderState.RS if kind == KINDS[2] else KGDataLoaderState.RSKG
        apart = (KGDataLoaderState.RS, KGDataLoaderState.KG)
        for state in apart if experiment.model.stock_name in ("KGAT", "MKR") else (joint,):
            data.set_mode(state)
            for _ in data:
                pass

    def train() -> None:
        one_pass = Trainer._train_epoch if kind == KINDS[0] else trainer.train_pass
        with patch.object(trainer, "train_pass", one_pass):
            stepper._train_epoch(data, epoch)

    return dict(
        zip(
            PARTS,
            (batches, train, lambda: stepper._valid_epoch(experiment.valid_data)),
            strict=True,
        )
    )


def cell(values: list[float]) -> str:
    """Median and range."""
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
