"""Seconds of a training epoch: a twin against its host, interleaved in one process.

    python benchmarks/epoch_time.py --repeats 7
    python benchmarks/epoch_time.py --model TinyKGCN --n_iter=2

Every variant trains on ml-100k with RecBole's defaults; other RecBole parameters may follow. After
a warm-up epoch, rounds follow in which each variant trains one epoch, so that a drift of the
machine's speed meets all alike, and then evaluates the validation set. `--batches` cuts an epoch
short, for hosts that take minutes. Last in a round, the model is constructed anew. Printed: medians
of the phases, the evaluation and the construction, and the median of the ratios to stock without
anomaly detection in the same round, with their range. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import torch

from recbole_tinykg.model import get_model
from recbole_tinykg.parameters import read_arguments, read_literal
from recbole_tinykg.quick_start import Experiment, prepare

PHASES = ("rs", "kg", "refresh", "total", "evaluation", "construction")
COMPARED = ("total", "evaluation", "construction")


class FirstBatches:
    """A RecBole loader that ends after some batches."""

    def __init__(self, loader: Any, num_batches: int) -> None:
        """Wraps `loader`."""
        self._loader, self._num_batches = loader, num_batches

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loader's."""
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        """The first batches."""
        return itertools.islice(iter(self._loader), self._num_batches)

    def __len__(self) -> int:
        """How many there are."""
        return min(self._num_batches, len(self._loader))


def main() -> None:
    """Train the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="TinyKGAT", help="the twin")
    parser.add_argument("--bits", default="32,8,2", help="bits of the twin")
    parser.add_argument("--repeats", type=int, default=7, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, default=10**9, help="of an epoch, at most")
    parser.add_argument("--gpu_id", default="", help="as in RecBole; empty: the CPU")
    args, others = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    given = {key: read_literal(value) for key, value in read_arguments(others).items()}
    common = {**given, "gpu_id": args.gpu_id, "state": "ERROR"}
    experiments = {
        label: (prepare(name, "ml-100k", config_dict={**common, **settings}), anomaly)
        for label, (name, settings, anomaly) in variants(args.model, args.bits).items()
    }
    seconds: dict[str, list[dict[str, float]]] = {label: [] for label in experiments}
    for epoch in range(args.repeats + 1):
        for label, (experiment, anomaly) in experiments.items():
            phases = train_epoch(experiment, epoch, anomaly, args.batches)
            if epoch:
                seconds[label].append(phases)
    print(table(seconds, get_model(args.model).host))
    device = torch.cuda.get_device_name() if args.gpu_id else platform.processor() or "CPU"
    where = {"torch": torch.__version__, "threads": args.threads, "device": device}
    print(json.dumps({**where, "model": args.model, "parameters": given, "seconds": seconds}))


def variants(twin: str, bits: str) -> dict[str, tuple[str, dict[str, Any], bool]]:
    """Model, settings, and whether anomalies are detected, by label."""
    host = get_model(twin).host
    return {
        host: (host, {}, False),
        f"{host} as shipped (anomaly detection)": (host, {}, True),
        **{f"{twin}, {b} bits": (twin, {"compress_bits": int(b)}, False) for b in bits.split(",")},
    }


def train_epoch(
    experiment: Experiment, epoch: int, anomaly: bool, num_batches: int
) -> dict[str, float]:
    """Seconds by phase of one epoch, of the evaluation after it, and of another such model."""
    trainer = experiment.trainer
    with torch.autograd.set_detect_anomaly(anomaly):
        trainer._train_epoch(FirstBatches(experiment.train_data, num_batches), epoch)
    start = perf_counter()
    trainer._valid_epoch(experiment.valid_data)
    evaluated = perf_counter()
    type(experiment.model)(experiment.config, experiment.train_data._dataset)
    constructed = perf_counter()
    return {
        **trainer.epoch_seconds[-1],
        "evaluation": evaluated - start,
        "construction": constructed - evaluated,
    }


def table(seconds: dict[str, list[dict[str, float]]], stock: str) -> str:
    """Markdown: medians by phase, and ratios to stock round by round."""
    lines = [
        "| model | RS, s | KG, s | refresh, s | epoch, s | evaluation, s | construction, s "
        f"| epoch / {stock}'s | evaluation / {stock}'s | construction / {stock}'s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, rounds in seconds.items():
        medians = " | ".join(f"{median(r[phase] for r in rounds):.2f}" for phase in PHASES)
        ratios = " | ".join(ratio(rounds, seconds[stock], p) for p in COMPARED)
        lines.append(f"| {label} | {medians} | {ratios} |")
    return "\n".join(lines)


def ratio(rounds: list[dict[str, float]], stock: list[dict[str, float]], phase: str) -> str:
    """Median and range of the ratios of a phase."""
    ratios = sorted(mine[phase] / other[phase] for mine, other in zip(rounds, stock, strict=True))
    return f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


if __name__ == "__main__":
    main()
