"""The table that a run ends with: accuracy, memory and time, one column per run.

Saved activations are what autograd keeps between forward and backward of one training step; their
ratio to float32 compares with the same step of the same model, uncompressed. Seconds are medians
over the epochs of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from recbole_tinykg.memory.byte_sizes import format_bytes
from recbole_tinykg.trainer.phases import PHASES

RESIDENT = {
    "parameter_bytes": "parameters",
    "optimizer_bytes": "optimizer state",
    "graph_bytes": "graph",
}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the results of runs, as `run_recbole_tinykg` returns them, side by side."""
    columns = [
        {**_metric_cells(result), **_memory_cells(result["memory"]), **_time_cells(result)}
        for result in results
    ]
    return side_by_side(["", *(result["model"] for result in results)], columns)


def metrics_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out metrics, a row each, with a column per evaluation."""
    cells = [{name: f"{m[name]:.4f}" for name in m} for m in columns.values()]
    return side_by_side(["", *columns], cells)


def _metric_cells(result: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{split} {name}": f"{value:.4f}"
        for split, key in (("best valid", "best_valid_result"), ("test", "test_result"))
        for name, value in (result[key] or {}).items()
    }


def _memory_cells(memory: Mapping[str, Any]) -> dict[str, str]:
    cells = {}
    for phase, name in PHASES.items():
        if phase in memory:
            saved = memory[phase]["saved_activation_bytes"]
            in_float32 = memory[phase]["float32_saved_activation_bytes"]
            cells[f"{name} step: saved activations"] = format_bytes(saved)
            cells[f"{name} step: ratio to float32"] = (
                f"1/{in_float32 / saved:.1f}" if saved else "-"
            )
            cells[f"{name} step: peak"] = format_bytes(memory[phase]["peak_bytes"])
    return cells | {label: format_bytes(memory[key]) for key, label in RESIDENT.items()}


def _time_cells(result: Mapping[str, Any]) -> dict[str, str]:
    epochs = result["epoch_seconds"]
    labels = {"total": "seconds per epoch", **{p: f"  of which {p}" for p in (*PHASES, "refresh")}}
    cells = {
        label: f"{median(epoch[part] for epoch in epochs):.2f}"
        for part, label in labels.items()
        if epochs and part in epochs[0]
    }
    return {"epochs": str(len(epochs)), **cells}


def side_by_side(
    head: Sequence[str], columns: Sequence[Mapping[str, str]], order: Iterable[str] = ()
) -> str:
    """Lay out a row per label, with a cell of each column; labels not in `order` come last."""
    found = dict.fromkeys(label for column in columns for label in column)
    labels = dict.fromkeys([*(label for label in order if label in found), *found])
    rows = [[label, *(column.get(label, "-") for column in columns)] for label in labels]
    return align([head, *rows])


def align(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Align columns to the right, those in `left` to the left; rule off the first row."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
