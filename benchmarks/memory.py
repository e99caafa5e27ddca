"""Bytes that a training step keeps for backward: a twin against its host, counted in three ways.

    python benchmarks/memory.py
    python benchmarks/memory.py --models TinyKGCN --bits 2

For each model and phase (rs: recommendation, kg: knowledge graph), on ml-100k with RecBole's
defaults; KGAT also with `layers` [64, 32, 16], MCCLK, which takes minutes and 6 GB there, on
entities with 20 triples or more and 512 rows:

* meter: the package's own count (`meter.saved_tensors`), the number of the ratio;
* hooks: an independent count, a few lines below: bytes of the distinct storages that pass through
  PyTorch's saved-tensor hooks and are neither parameters, batch nor resident tensors;
* allocator: bytes alive after forward minus before, by PyTorch's allocation events. It must not
  exceed saved + outputs + 5 %;
* peak: the most bytes allocated at once in forward and backward, above what is resident.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
from typing import Any

import torch
from recbole.utils import KGDataLoaderState
from torch.profiler import ProfilerActivity, profile

from recbole_tinykg import meter
from recbole_tinykg.model import get_model
from recbole_tinykg.quick_start import prepare

RS, KG, RSKG = KGDataLoaderState.RS, KGDataLoaderState.KG, KGDataLoaderState.RSKG
PHASES = {"rs": (RS, "calculate_loss"), "kg": (KG, "calculate_kg_loss")}
OTHER_PHASES = {
    "MKR": {"rs": (RS, "calculate_rs_loss"), "kg": (KG, "calculate_kg_loss")},
    "CKE": {"rs": (RSKG, "calculate_loss")},
    "CFKG": {"rs": (RSKG, "calculate_loss")},
}
"""What RecBole's trainers call, and the state of the loader for it."""

INDICES = (torch.int32, torch.int64)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("TinyKGAT", {"layers": [64]}),
    ("TinyKGAT", {"layers": [64, 32, 16]}),
    ("TinyKGCN", {}),
    ("TinyKGNNLS", {}),
    ("TinyRippleNet", {}),
    ("TinyKGIN", {}),
    ("TinyCKE", {}),
    ("TinyCFKG", {}),
    ("TinyKTUP", {}),
    ("TinyMKR", {}),
    ("TinyMCCLK", {"entity_kg_num_interval": "[20,inf)", "train_batch_size": 512}),
]


def main() -> None:
    """Measure every model and phase, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = dict.fromkeys(name for name, _ in CASES)
    parser.add_argument("--models", default=",".join(every), help="twins, separated by commas")
    parser.add_argument("--bits", default="32,8,4,2,1", help="bits of the twin")
    args = parser.parse_args()
    rows = []
    for name, settings in CASES:
        if name in args.models.split(","):
            rows += measure(get_model(name).host, settings)
            for bits in map(int, args.bits.split(",")):
                rows += measure(name, settings, bits)
    print(table(rows))
    print(json.dumps({"torch": torch.__version__, "machine": platform.machine(), "rows": rows}))


def measure(name: str, settings: dict[str, Any], bits: int | None = None) -> list[dict[str, Any]]:
    """Every phase of a model: a row each."""
    given = {**settings, "gpu_id": "", "state": "ERROR"}
    if bits is not None:
        given["compress_bits"] = bits
    experiment = prepare(name, "ml-100k", config_dict=given)
    model, rows = experiment.model.train(), []
    host = getattr(model, "host", name)
    for phase, (state, loss_name) in OTHER_PHASES.get(host, PHASES).items():
        if not hasattr(model, loss_name):
            continue
        experiment.train_data.set_mode(state)
        batch, loss = next(iter(experiment.train_data)), getattr(model, loss_name)
        total(loss(batch)).backward()
        with meter.saved_tensors(model, batch) as saved:
            value = loss(batch)
        del value
        indices = sum(t.num_bytes for t in saved.tensors if t.dtype in INDICES)
        counts = {
            "meter": saved.num_bytes,
            "without_indices": saved.num_bytes - indices,
            "hooks": count_by_hooks(model, batch, loss),
            "allocator": count_by_allocator(loss, batch),
            "peak": peak_of_step(model, loss, batch),
        }
        case = "".join(f", {key} {value}" for key, value in settings.items())
        rows.append({"host": host + case, "phase": phase, "model": name, "bits": bits, **counts})
    return rows


def total(losses: Any) -> torch.Tensor:
    """A loss, or the sum of several."""
    return sum(losses).sum() if isinstance(losses, tuple) else losses.sum()


def count_by_hooks(model: torch.nn.Module, batch: Any, loss: Any) -> int:
    """Distinct storages that are saved and belong neither to the model nor to the batch."""
    resident = [*model.parameters(), *model.buffers(), *batch.interaction.values()]
    for module in model.modules():
        resident += [v for v in vars(module).values() if isinstance(v, torch.Tensor)]
    known = {storage for tensor in resident for storage, _ in storages(tensor)}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found.update(storages(tensor))
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(batch)
    total = sum(size for storage, size in found.items() if storage not in known)
    del value
    return total


def storages(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Address and bytes of the storages of a dense or sparse tensor."""
    parts = [tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor]
    return [(p.untyped_storage().data_ptr(), p.untyped_storage().nbytes()) for p in parts]


def count_by_allocator(loss: Any, batch: Any) -> int:
    """Bytes allocated minus bytes released between the start and the end of forward."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        value = loss(batch)
    del value
    events = profiler.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def peak_of_step(model: torch.nn.Module, loss: Any, batch: Any) -> int:
    """Highest sum of bytes in forward and backward above what was there before, gradients too."""
    model.zero_grad(set_to_none=True)
    with meter.peak_bytes() as peak:
        total(loss(batch)).backward()
    assert peak.num_bytes is not None
    return peak.num_bytes


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with the ratio of stock's bytes to the row's."""
    lines = [
        "| host | phase | model | meter, bytes | hooks | allocator | fewer than stock "
        "| indices left out | peak, bytes | of stock's peak |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    stock = {(r["host"], r["phase"]): r for r in rows if r["bits"] is None}
    for r in sorted(rows, key=lambda r: (r["host"], r["phase"], -(r["bits"] or 99))):
        name = r["model"] if r["bits"] is None else f"{r['model']}, {r['bits']} bits"
        ratios = " | ".join(
            f"{stock[r['host'], r['phase']][count] / r[count]:.1f}×" if r[count] else "nothing kept"
            for count in ("meter", "without_indices")
        )
        lines.append(
            f"| {r['host']} | {r['phase']} | {name} | {r['meter']:,} | {r['hooks']:,} "
            f"| {r['allocator']:,} | {ratios} | {r['peak']:,} "
            f"| {r['peak'] / stock[r['host'], r['phase']]['peak']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
