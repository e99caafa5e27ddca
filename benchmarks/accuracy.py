"""Does training on compressed activations cost accuracy? Twin against stock, paired by seed.

Every seed fixes the split, the initial weights and the negatives; each is trained with the stock
model, with the twin at 32 bits (the noise control: same mathematics, another dropout mask) and with
the twin at low bits, with RecBole's defaults and early stopping, and tested at its best epoch. The
table shows means, and for each variant the paired difference to stock in per cent with its 95 %
interval (Student's t).

    python -m benchmarks.accuracy --model TinyKGAT --dataset ml-100k --seeds 2020:2028
    python -m benchmarks.accuracy --model TinyRippleNet --embedding_size=16 --n_memory=8

Other RecBole parameters may follow; they become a part of the results file's name. The variant
`scored`, which needs the runs of `stock` in the same `--scratch`, trains nothing: the twin scores
with stock's weights, which tells apart what training and what evaluation contribute.

Finished runs are lines of the results file and are not repeated; a run that was interrupted goes on
from its last epoch if `--scratch` names the same folder. `--workers` trains several runs at a time,
`--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.processes import RESULTS
from recbole_tinykg.config.parameters import read_arguments, read_literal

METRICS = ("recall@10", "ndcg@10", "mrr@10")
STOCK = "stock"
SCORED = "scored"


def main() -> None:
    """Train what is missing, then print the table."""
    args = parse_args()
    missing = [key for key in wanted(args) if key not in finished(args.results)]
    if missing and not args.table:
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(args.workers, len(missing)), maxtasksperchild=1) as pool:
            for line in pool.imap_unordered(train, [(args, key) for key in missing]):
                append(args.results, line)
                print(line["variant"], line["seed"], line["test"], flush=True)
    print(table(args))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="TinyKGAT", help="the twin; its stock model is the baseline"
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default=None, help="folder of data sets other than ml-100k")
    parser.add_argument(
        "--variants", default="stock,32,2", help="stock, scored, or bits of the twin"
    )
    parser.add_argument("--seeds", default="2020:2028", help="first:last+1, fixed beforehand")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads per run")
    parser.add_argument("--results", type=Path, default=None, help="JSON lines, read and extended")
    parser.add_argument("--learning_rate", type=float, default=0.001, help="RecBole's: 0.001")
    parser.add_argument("--gpu_id", default="0", help="as in RecBole; empty: train on the CPU")
    parser.add_argument("--scratch", type=Path, default=None, help="folder of checkpoints")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    args, others = parser.parse_known_args()
    args.parameters = {k: read_literal(v) for k, v in read_arguments(others).items()}
    name = "_".join(
        [
            f"accuracy_{args.model}_{args.dataset}_lr{args.learning_rate:g}",
            *(f"{key}{value}" for key, value in sorted(args.parameters.items())),
        ]
    )
    default = RESULTS / f"{name}.jsonl"
    args.results = (args.results or default).resolve()
    args.scratch = (args.scratch or Path(tempfile.mkdtemp(prefix="accuracy-"))).resolve()
    return args


def wanted(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """(variant, seed) of every run of the table, seed by seed."""
    first, last = map(int, args.seeds.split(":"))
    for seed in range(first, last):
        for variant in args.variants.split(","):
            yield variant, seed


def finished(results: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Lines of the results file by (variant, seed)."""
    if not results.exists():
        return {}
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    return {(line["variant"], line["seed"]): line for line in lines}


def append(results: Path, line: dict[str, Any]) -> None:
    """Add a line; a single write, so that a kill leaves whole lines."""
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def train(job: tuple[argparse.Namespace, tuple[str, int]]) -> dict[str, Any]:
    """One run in a process and a folder of its own, from its last checkpoint if there is one."""
    args, (variant, seed) = job
    import torch

    torch.set_num_threads(args.threads)
    from recbole_tinykg.quick_start import run_recbole_tinykg

    folder = args.scratch / f"{args.results.stem}-{variant}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if variant == SCORED:
        return score_stock(args, seed)
    model, settings = configuration(args, variant, seed)
    started = next(folder.glob("saved/*-last.pth"), None)
    start = time.perf_counter()
    result = run_recbole_tinykg(model, args.dataset, config_dict=settings, resume=started)
    on_gpu = torch.cuda.is_available() and args.gpu_id != ""
    return {
        "variant": variant,
        "seed": seed,
        "model": model,
        "test": result["test_result"],
        "valid": result["best_valid_result"],
        "epochs": len(result["epoch_seconds"]),
        "resumed": started is not None,
        "seconds": round(time.perf_counter() - start, 1),
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def score_stock(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Score the best weights of a finished stock run, and what it sampled, with the twin."""
    from recbole_tinykg.quick_start import load_data_and_model, prepare

    folder = args.scratch / f"{args.results.stem}-{STOCK}-{seed}" / "saved"
    best = [file for file in folder.glob("*.pth") if not file.stem.endswith("-last")]
    if len(best) != 1:
        raise FileNotFoundError(f"{SCORED} needs the checkpoint of {STOCK} in {folder}; got {best}")
    _, stock, *_ = load_data_and_model(best[0])
    experiment = prepare(args.model, args.dataset, config_dict=configuration(args, "32", seed)[1])
    experiment.model.load_state_dict(stock.state_dict())
    experiment.model.load_other_parameter(stock.other_parameter())
    test = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    epochs = finished(args.results)[STOCK, seed]["epochs"]
    plain = {metric: float(value) for metric, value in test.items()}
    return {"variant": SCORED, "seed": seed, "model": args.model, "test": plain, "epochs": epochs}


def configuration(args: argparse.Namespace, variant: str, seed: int) -> tuple[str, dict[str, Any]]:
    """Model name and settings of a variant."""
    from recbole_tinykg.model import get_model

    settings: dict[str, Any] = {
        "seed": seed,
        "show_progress": False,
        "state": "WARNING",
        "gpu_id": args.gpu_id,
        "learning_rate": args.learning_rate,
        **args.parameters,
    }
    if args.data_path:
        settings["data_path"] = os.path.abspath(args.data_path)
    if variant == STOCK:
        return get_model(args.model).stock_name, {**settings, "detect_anomaly": False}
    return args.model, {**settings, "compress_bits": int(variant)}


def table(args: argparse.Namespace) -> str:
    """Markdown: a row per variant and metric, over the seeds that every variant has."""
    runs = finished(args.results)
    variants = args.variants.split(",")
    seeds = sorted({seed for _, seed in wanted(args)})
    seeds = [seed for seed in seeds if all((variant, seed) in runs for variant in variants)]
    if len(seeds) < 2:
        return f"{len(seeds)} seeds are finished in every variant; the table needs 2"
    rows = [
        f"{args.model} on {args.dataset}, learning rate {args.learning_rate:g}, "
        f"seeds {seeds[0]}-{seeds[-1]} ({len(seeds)} pairs)\n"
    ]
    rows += [
        "| variant | epochs | metric | mean | against stock, % | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for variant in variants:
        epochs = [runs[variant, seed]["epochs"] for seed in seeds]
        for metric in METRICS:
            values = [runs[variant, seed]["test"][metric] for seed in seeds]
            stock = [runs[STOCK, seed]["test"][metric] for seed in seeds]
            rows.append(row(variant, sum(epochs) / len(epochs), metric, values, stock))
    return "\n".join(rows)


def row(
    variant: str, epochs: float, metric: str, values: list[float], stock: Iterable[float]
) -> str:
    """One line of the table."""
    import numpy as np
    from scipy import stats

    mean, base = np.mean(values), np.mean(list(stock))
    names = {STOCK: STOCK, SCORED: "stock, scored by the twin"}
    name = names.get(variant, f"{variant} bits")
    if variant == STOCK:
        return f"| {name} | {epochs:.0f} | {metric} | {mean:.4f} | | |"
    difference = np.subtract(values, list(stock)) / base * 100
    spread = stats.sem(difference) * stats.t.ppf(0.975, len(difference) - 1)
    center = difference.mean()
    return (
        f"| {name} | {epochs:.0f} | {metric} | {mean:.4f} | {center:+.2f} | "
        f"{center - spread:+.2f} to {center + spread:+.2f} |"
    )


if __name__ == "__main__":
    main()
