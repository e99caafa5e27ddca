"""8-bit Adam of two libraries against PyTorch's: bytes of state, seconds of a step, and accuracy.

    python -m benchmarks.optimizer_state                              # bytes and seconds
    python -m benchmarks.optimizer_state --seeds 2020:2023 --rounds 0  # accuracy, in other columns

Needs `pip install bitsandbytes torchao`; what is not installed is left out. Steps: Adam on a table
of 184,000 x 64 floats (Amazon-Book's users and entities) with a dense gradient, the optimizers in
turn, medians and ranges over the rounds after the two that compile and allocate. Accuracy: TinyKGAT
at 2 bits on ml-100k, same seeds and batches, with `fused` Adam and with each 8-bit one, tested
after the last epoch. The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.quick_start import prepare

ROWS, COLUMNS = 184_000, 64
Optimizers = dict[str, Callable[..., torch.optim.Optimizer]]


def main() -> None:
    """Measure what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="steps that count; 0: none")
    parser.add_argument("--seeds", default="", help="first:last+1 of the accuracy; empty: none")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--optimizers", default="", help="names in the table; empty: all")
    args = parser.parse_args()
    chosen = {
        name: make for name, make in optimizers().items() if name in (args.optimizers or name)
    }
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    found |= {"machine": platform.machine()}
    if args.rounds:
        found["step"] = steps(chosen, args.rounds)
        print(step_table(found["step"]), end="\n\n")
    if args.seeds:
        seeds = range(*map(int, args.seeds.split(":")))
        found["accuracy"] = {name: train(chosen[name], seeds, args.epochs) for name in chosen}
        print(accuracy_table(found["accuracy"]))
    print(json.dumps(found))


def optimizers() -> Optimizers:
    """Return what can be had here, by name; the first one is the one to beat."""
    adam = torch.optim.Adam
    found: Optimizers = {
        "torch, fused": lambda p, **kwargs: adam(p, fused=True, **kwargs),
        "torch, default": adam,
        "torch, foreach": lambda p, **kwargs: adam(p, foreach=True, **kwargs),
    }
    for library, module, name in (
        ("bitsandbytes", "bitsandbytes.optim", "Adam8bit"),
        ("torchao", "torchao.optim", "Adam8bit"),
    ):
        try:
            found[f"{library}, {name}"] = getattr(importlib.import_module(module), name)
        except ImportError:
            print(f"{library} is not installed")
    return found


def steps(chosen: Optimizers, rounds: int) -> dict[str, dict[str, Any]]:
    """Bytes of state, the first step's seconds and the others', interleaved."""
    grad = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    made = {
        name: make([torch.nn.Parameter(torch.zeros_like(grad))]) for name, make in chosen.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 2):
        for name, optimizer in made.items():
            optimizer.param_groups[0]["params"][0].grad = grad
            start = perf_counter()
            optimizer.step()
            seconds[name].append(perf_counter() - start)
    return {
        name: {"bytes": sum(map(num_bytes, state_of(made[name]))), "first": s[0], "seconds": s[2:]}
        for name, s in seconds.items()
    }


def state_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Tensors of the optimizer's state."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def num_bytes(tensor: Any) -> int:
    """Bytes of a tensor, or of the tensors that a subclass is made of."""
    if type(tensor) is not Tensor and hasattr(tensor, "__tensor_flatten__"):
        return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.untyped_storage().nbytes()


def step_table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: bytes, first step, median and range, and how often the first optimizer's."""
    lines = [
        "| Adam | state, bytes | first step, s | step, ms | range, ms | of fused |",
        "|---|---|---|---|---|---|",
    ]
    base = median(next(iter(found.values()))["seconds"])
    for name, row in found.items():
        ms = sorted(1e3 * s for s in row["seconds"])
        lines.append(
            f"| {name} | {row['bytes']:,} | {row['first']:.2f} | {median(ms):.1f} "
            f"| {ms[0]:.1f} to {ms[-1]:.1f} | {median(ms) / base / 1e3:.1f}× |"
        )
    return "\n".join(lines)


def train(
    make: Callable[..., torch.optim.Optimizer], seeds: Iterable[int], epochs: int
) -> list[dict[str, float]]:
    """Test metrics and seconds of a training, one for each seed."""
    rows = []
    for seed in seeds:
        settings = {"seed": seed, "epochs": epochs, "eval_step": 0, "learning_rate": 0.005}
        settings |= {"compress_bits": 2, "gpu_id": "", "state": "ERROR", "show_progress": False}
        experiment = prepare("TinyKGAT", "ml-100k", config_dict=settings)
        trainer = experiment.trainer
        trainer.optimizer = make(experiment.model.parameters(), lr=0.005)
        start = perf_counter()
        for epoch in range(epochs):
            trainer._train_epoch(experiment.train_data, epoch)
        seconds = perf_counter() - start
        result = trainer.evaluate(experiment.test_data, load_best_model=False)
        rows.append({"seed": seed, "seconds": seconds, **result})
    return rows


def accuracy_table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: metrics by seed, and the mean paired difference to the first optimizer's."""
    lines = [
        "| Adam | recall@10 by seed | difference | ndcg@10 by seed | difference | training, s |",
        "|---|---|---|---|---|---|",
    ]
    base = next(iter(found.values()))
    for name, rows in found.items():
        cells = []
        for metric in ("recall@10", "ndcg@10"):
            pairs = list(zip(rows, base, strict=True))
            change = sum(r[metric] - b[metric] for r, b in pairs) / sum(b[metric] for b in base)
            cells += [", ".join(f"{r[metric]:.4f}" for r in rows), f"{100 * change:+.1f} %"]
        seconds = median(r["seconds"] for r in rows)
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
