"""One point of `run.py`: a model on a graph, in a process of its own that may be ended.

    python -m benchmarks.growth.point '{"series": "amazon-book", "model": "KGAT", "scale": 1}'

Seconds are of a whole step: gradients set to None, loss, backward, Adam (fused for twins, as their
trainer has it); medians after a warm-up. Saved and peak bytes are the package's own count
(`meter`): the peak is above what is there between steps. `rss_bytes` is the most memory that the
process had while it built the graph, and while it trained. The last line is JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.utils import KGDataLoaderState

from benchmarks.suite.memory import total
from benchmarks.synthetic_data.array_dataset import ArrayDataset, build_model
from benchmarks.synthetic_data.synthetic import (
    SIZES,
    KnowledgeData,
    interactions_and_triples,
    write_atomic_files,
)
from recbole_tinykg.memory import meter
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer.optimizers import fuse

ROWS = 2048
LONG_SECONDS = 5.0  # a step beyond this is timed once
ARRAY_SERIES = ("amazon-book",)
KGAT_LAYERS = [64, 32, 16]


class Built(NamedTuple):
    """A model, its optimizer, and the batch of each phase that it has."""

    model: Any
    optimizer: Any
    batches: dict[str, Any]
    edges: int
    nodes: int


def main() -> None:
    """Measure the point that the first argument describes."""
    point = json.loads(sys.argv[1])
    torch.set_num_threads(point.get("threads", 2))
    folder = Path(point["folder"])
    start = perf_counter()
    build = from_arrays if point["series"] in ARRAY_SERIES else from_files
    built, seconds = build(point, folder)
    row = {"edges": built.edges, "nodes": built.nodes, **seconds}
    row["total_construction_seconds"] = perf_counter() - start
    row["rss_bytes"] = {"construction": peak_rss()}
    gc.collect()
    reset_peak_rss()
    row["resident_bytes"] = meter.resident_bytes(built.model)
    for phase, batch in built.batches.items():
        row[phase] = measure_phase(built, phase, batch)
    if hasattr(built.model, "update_attentive_A"):
        row["refresh"] = measure_refresh(built.model)
    row["optimizer_bytes"] = meter.optimizer_bytes(built.optimizer)
    row["rss_bytes"]["training"] = peak_rss()
    print(json.dumps(row))


def from_arrays(point: dict[str, Any], folder: Path) -> tuple[Built, dict[str, float]]:
    """KGAT or its twin on a graph with both directions of every relation."""
    data = cached_arrays(point["series"], point["scale"], folder)
    reset_peak_rss()  # what drawing them took is not the model's
    start = perf_counter()
    dataset = ArrayDataset(data, kg_reverse_r=True)
    loaded = perf_counter()
    model = build_model(point["model"], dataset, **settings_of(point))
    seconds = {"load_seconds": loaded - start, "model_seconds": perf_counter() - loaded}
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    optimizer = fuse(adam) if point["model"].startswith("Tiny") else adam
    batches = {"rs": dataset.pairs(ROWS, seed=1), "kg": dataset.triples(ROWS, seed=2)}
    edges = 2 * len(dataset.inter_feat) + len(dataset.relations)
    return Built(model, optimizer, batches, edges, model.n_users + model.n_entities), seconds


def cached_arrays(size: str, scale: int, folder: Path) -> KnowledgeData:
    """Return the arrays of a size, drawn once and kept in a file."""
    file = folder / f"{size}-x{scale}.npz"
    if not file.exists():
        drawn = interactions_and_triples(size, scale)
        np.savez(folder / f"{file.stem}.partial.npz", *drawn[1:])
        (folder / f"{file.stem}.partial.npz").rename(file)
        return drawn
    with np.load(file) as stored:
        return KnowledgeData(SIZES[size].times(scale), *(stored[name] for name in stored.files))


def from_files(point: dict[str, Any], folder: Path) -> tuple[Built, dict[str, float]]:
    """Any model on atomic files, through RecBole's loader, with its own batches."""
    name = f"{point['series']}-synthetic-x{point['scale']}"
    if not (folder / name).exists():
        drawn = interactions_and_triples(point["series"], point["scale"])
        write_atomic_files(drawn, folder, name)
    start = perf_counter()
    given = {"data_path": str(folder), "gpu_id": "", "state": "ERROR", **settings_of(point)}
    experiment = prepare(point["model"], name, config_dict=given)
    seconds = {"load_seconds": perf_counter() - start}
    start = perf_counter()
    type(experiment.model)(experiment.config, experiment.train_data._dataset)
    seconds["model_seconds"] = perf_counter() - start
    batches = {"rs": first_batch(experiment.train_data, KGDataLoaderState.RS)}
    if hasattr(experiment.model, "calculate_kg_loss"):
        batches["kg"] = first_batch(experiment.train_data, KGDataLoaderState.KG)
    dataset = experiment.dataset
    edges = 2 * len(experiment.train_data._dataset.inter_feat) + len(dataset.kg_feat)
    nodes = dataset.user_num + dataset.entity_num
    model, optimizer = experiment.model, experiment.trainer.optimizer
    return Built(model, optimizer, batches, edges, nodes), seconds


def first_batch(loader: Any, state: Any) -> Any:
    """Return the first batch that RecBole's loader draws in a state."""
    loader.set_mode(state)
    return next(iter(loader))


def settings_of(point: dict[str, Any]) -> dict[str, Any]:
    """RecBole's defaults, but KGAT's layers at Amazon-Book size."""
    given: dict[str, Any] = {"train_batch_size": ROWS}
    if point["series"] in ARRAY_SERIES:
        given["layers"] = KGAT_LAYERS
    if point["model"].startswith("Tiny"):
        given["compress_bits"] = point["bits"]
    return given


def measure_phase(built: Built, phase: str, batch: Any) -> dict[str, Any]:
    """Seconds of a step, bytes that it keeps for backward, and the most that it allocates."""
    built.model.train()
    loss = built.model.calculate_loss if phase == "rs" else built.model.calculate_kg_loss

    def step() -> None:
        built.optimizer.zero_grad(set_to_none=True)
        total(loss(batch)).backward()
        built.optimizer.step()

    seconds = repeat(step)
    built.optimizer.zero_grad(set_to_none=True)
    with meter.saved_tensors(built.model, batch) as saved:
        value = loss(batch)
    del value
    with meter.peak_bytes() as peak:
        total(loss(batch)).backward()
    built.optimizer.zero_grad(set_to_none=True)
    return {"seconds": seconds, "saved_bytes": saved.num_bytes, "peak_bytes": peak.num_bytes}


def measure_refresh(model: Any) -> dict[str, Any]:
    """Seconds and peak of computing the attention matrix anew."""
    with torch.no_grad():
        seconds = repeat(model.update_attentive_A)
        with meter.peak_bytes() as peak:
            model.update_attentive_A()
    return {"seconds": seconds, "peak_bytes": peak.num_bytes}


def repeat(step: Callable[[], None]) -> float:
    """Median seconds of five calls after a warm-up; of one call if that is long."""
    times = 1 if timed(step) > LONG_SECONDS else 5
    return median(timed(step) for _ in range(times))


def timed(step: Callable[[], None]) -> float:
    """Seconds of a call."""
    start = perf_counter()
    step()
    return perf_counter() - start


def peak_rss() -> int:
    """Return the most memory that the process had since the last reset, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(s.split()[1]) for s in status.splitlines() if s.startswith("VmHWM"))


def reset_peak_rss() -> None:
    """Forget the peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
