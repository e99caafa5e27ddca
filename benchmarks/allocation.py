"""Is the gradient less noisy if bits are chosen per map than at one width, for equal bytes?

    python -m benchmarks.allocation --output benchmarks/results/allocation

Each twin trains two epochs on ml-100k under a seed. Bits are chosen from two batches, for exactly
the bytes that a uniform width takes; then the gradients of other batches are drawn several times
with either, and compared with the exact gradient: the mean of |drawn - exact|^2 / |exact|^2 over
all parameters together. Dropout is the same in all of them. Printed are geometric means over seeds,
the range of the ratio, and what the choice itself predicted.

There are two uniform choices: every map at b bits, and the package's own at `compress_bits=b`,
where the loss' gradients have at least 8.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from recbole.utils import KGDataLoaderState
from tabulate import tabulate

from recbole_tinykg.data.upcoming import upcoming_batches
from recbole_tinykg.functional.bpr import GRADIENT_BITS
from recbole_tinykg.quantization import Quantizer
from recbole_tinykg.quantization.budget import allocate_bits
from recbole_tinykg.quick_start import prepare

CASES = {
    "TinyKGAT": {},
    "TinyKGAT [64,32,16]": {"layers": [64, 32, 16]},
    "TinyKGCN": {},
    "TinyKGCN n_iter 2": {"n_iter": 2},
    "TinyKGNNLS": {},
    "TinyKGIN": {},
}
BITS = (1, 2, 4)
DRAWN_STEP = 1 << 20  # of the noise that is compared


def main() -> None:
    """Print a table; JSON last; write both with --output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--case", choices=CASES, action="append", help="one of them; default: all")
    parser.add_argument("--output", type=Path, help="path without suffix")
    args = parser.parse_args()
    rows = [row for name in args.case or CASES for row in compare(name, args)]
    headers = ["", "uniform bits", "bytes", "uniform", "chosen", "ratio", "range", "predicted"]
    table = tabulate([cells(row) for row in rows], headers, "github", disable_numparse=True)
    print(table)
    print(json.dumps(rows))
    if args.output:
        about = f"`python -m benchmarks.allocation --seeds {args.seeds} --draws {args.draws}`"
        text = f"{__doc__.splitlines()[0]}\n\n{about}, PyTorch {torch.__version__}.\n\n{table}\n"
        args.output.with_suffix(".md").write_text(text)
        args.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")


def compare(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one case: for every width, with and without more bits for gradients."""
    found: dict[tuple[int, bool], list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        model, batches = train(name.split()[0], {**CASES[name], "seed": seed})
        exact = [gradient(model, batch, Quantizer(32), 0) for batch in batches[2:]]
        for bits in BITS:
            for floor in (1, GRADIENT_BITS):
                run = one(model, batches, exact, bits, floor, args.draws)
                found.setdefault((bits, floor > 1), []).append(run)
    return [summary(name, *key, runs) for key, runs in found.items()]


def one(
    model: Any, batches: list[Any], exact: list[Any], bits: int, floor: int, draws: int
) -> dict[str, float]:
    """Errors of one uniform width and of what is chosen for its bytes."""
    everything = allocate_bits(model, model.calculate_loss, batches[:2], 1 << 40).sensitivity
    uniform = {
        own.name: max(bits, floor if "gradient" in own.name else 1) for own in everything.maps
    }
    budget = everything.saved_bytes(uniform)
    chosen = allocate_bits(model, model.calculate_loss, batches[:2], budget)
    return {
        "bytes": budget,
        "chosen_bytes": chosen.saved_bytes,
        "uniform": error(model, batches[2:], exact, uniform, draws),
        "chosen": error(model, batches[2:], exact, chosen.bits, draws),
        "predicted": chosen.relative_variance,
    }


def train(model_name: str, settings: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Return a model after two epochs, and batches."""
    run = {"epochs": 2, "eval_step": 0, "state": "ERROR", "gpu_id": ""}
    experiment = prepare(model_name, "ml-100k", config_dict={**run, **settings})
    experiment.trainer.fit(experiment.train_data, saved=False)
    if hasattr(experiment.train_data, "set_mode"):
        experiment.train_data.set_mode(KGDataLoaderState.RS)
    return experiment.model.train(), upcoming_batches(experiment.train_data, 4)


def gradient(model: Any, batch: Any, bits: dict[str, int], draw: int) -> list[torch.Tensor]:
    """Gradient of the loss by every parameter; dropout is that of draw 0."""
    sites = model.streams.sites.clone()
    with model.compression(bits):
        model.streams.step = DRAWN_STEP
        for site in model.map_sites.values():
            model.streams.sites[site, 1] += draw << 20
        loss = model.calculate_loss(batch)
    model.streams.sites.copy_(sites)
    found = torch.autograd.grad(loss.sum(), list(model.parameters()), allow_unused=True)
    return [g for g in found if g is not None]


def error(
    model: Any, batches: list[Any], exact: list[Any], bits: dict[str, int], draws: int
) -> float:
    """Mean of |drawn - exact|^2 / |exact|^2 over batches and draws."""
    total = 0.0
    for batch, reference in zip(batches, exact, strict=True):
        for draw in range(1, draws + 1):
            drawn = gradient(model, batch, bits, draw)
            distance = sum((a - b).square().sum() for a, b in zip(drawn, reference, strict=True))
            total += float(distance / sum(b.square().sum() for b in reference))
    return total / (draws * len(batches))


def summary(name: str, bits: int, floored: bool, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Geometric means over seeds."""
    ratios = [run["chosen"] / run["uniform"] for run in runs]
    means = {key: geometric_mean(run[key] for run in runs) for key in runs[0]}
    return {
        "case": name,
        "uniform_bits": f"{bits}, gradients {max(bits, GRADIENT_BITS)}" if floored else str(bits),
        **means,
        "ratio": geometric_mean(ratios),
        "ratios": ratios,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    span = f"{min(row['ratios']):.3f} to {max(row['ratios']):.3f}"
    numbers = [f"{row[key]:.2e}" for key in ("uniform", "chosen")]
    kilobytes = f"{row['bytes'] / 1000:.0f} KB"
    return [
        row["case"],
        row["uniform_bits"],
        kilobytes,
        *numbers,
        f"{row['ratio']:.3f}",
        span,
        f"{row['predicted']:.2e}",
    ]


if __name__ == "__main__":
    main()
