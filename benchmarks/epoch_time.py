"""Seconds of a training epoch: KGAT against TinyKGAT, interleaved in one process.

    python benchmarks/epoch_time.py --repeats 7

Every variant trains on ml-100k with RecBole's defaults. After a warm-up epoch, rounds follow in
which each variant trains one epoch (BPR pass, TransR pass, attention refresh), so that a drift of
the machine's speed meets all alike. Printed: medians of the phases, and the median of the ratios to
stock KGAT without anomaly detection in the same round, with their range. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
from statistics import median
from typing import Any

import torch

from recbole_tinykg.quick_start import Experiment, prepare

STOCK = "KGAT"
VARIANTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    STOCK: ("KGAT", {}, False),
    "KGAT as shipped (anomaly detection)": ("KGAT", {}, True),
    "TinyKGAT, 32 bits": ("TinyKGAT", {"compress_bits": 32}, False),
    "TinyKGAT, 8 bits": ("TinyKGAT", {"compress_bits": 8}, False),
    "TinyKGAT, 2 bits": ("TinyKGAT", {"compress_bits": 2}, False),
}
PHASES = ("rs", "kg", "refresh", "total")


def main() -> None:
    """Train the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layers", default="[64]")
    parser.add_argument("--gpu_id", default="", help="as in RecBole; empty: the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    common = {"layers": json.loads(args.layers), "gpu_id": args.gpu_id, "state": "ERROR"}
    experiments = {
        label: prepare(name, "ml-100k", config_dict={**common, **settings})
        for label, (name, settings, _) in VARIANTS.items()
    }
    seconds: dict[str, list[dict[str, float]]] = {label: [] for label in VARIANTS}
    for epoch in range(args.repeats + 1):
        for label, experiment in experiments.items():
            phases = train_epoch(experiment, epoch, anomaly=VARIANTS[label][2])
            if epoch:
                seconds[label].append(phases)
    print(table(seconds))
    device = torch.cuda.get_device_name() if args.gpu_id else platform.processor() or "CPU"
    where = {"torch": torch.__version__, "threads": args.threads, "device": device}
    print(json.dumps({**where, "layers": common["layers"], "seconds": seconds}))


def train_epoch(experiment: Experiment, epoch: int, *, anomaly: bool) -> dict[str, float]:
    """Seconds by phase of one epoch."""
    with torch.autograd.set_detect_anomaly(anomaly):
        experiment.trainer._train_epoch(experiment.train_data, epoch)
    return experiment.trainer.epoch_seconds[-1]


def table(seconds: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: medians by phase, and ratios to stock round by round."""
    lines = [
        "| model | RS, s | KG, s | refresh, s | epoch, s | ratio to KGAT |",
        "|---|---|---|---|---|---|",
    ]
    for label, rounds in seconds.items():
        ratios = sorted(
            mine["total"] / stock["total"]
            for mine, stock in zip(rounds, seconds[STOCK], strict=True)
        )
        medians = " | ".join(f"{median(r[phase] for r in rounds):.2f}" for phase in PHASES)
        spread = f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        lines.append(f"| {label} | {medians} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
