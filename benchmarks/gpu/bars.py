"""The numbers that were asked of a GPU, beside what was measured before and what is measured now.

`before` is of one H200, with PyTorch 2.11 and CUDA 13.0, when the library computed the sparse
products and Python launched every kernel of a step. A ratio is the twin's at 2 bits over the stock
model's without anomaly detection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.suite.comparison import TWIN, Result

Found = Mapping[str, Any]
Value = float | None
LARGEST = [4_000_000, 64]


@dataclass(frozen=True)
class Bar:
    """A row of the table: one or several numbers, each with a limit."""

    label: str
    before: str
    limits: tuple[float, ...]
    values: Callable[[Found], list[Value]]
    at_least: bool = False
    form: str = "{:.2f}"

    @property
    def asked(self) -> str:
        """Return the limits for the table."""
        limits = " / ".join(map(self.form.format, self.limits))
        return f"{'>=' if self.at_least else '<='} {limits}"

    def measured(self, found: Found) -> str:
        """Return the numbers for the table; a dash for one that is missing."""
        values = self.values(found)
        return " / ".join("–" if v is None else self.form.format(v) for v in values)

    def holds(self, found: Found) -> str:
        """Return yes, no, or that it is not known yet."""
        pairs = list(zip(self.values(found), self.limits, strict=True))
        if any(v is not None and not self._keeps(v, limit) for v, limit in pairs):
            return "**no**"
        return "not measured" if any(v is None for v, _ in pairs) else "yes"

    def _keeps(self, value: float, limit: float) -> bool:
        return value >= limit if self.at_least else value <= limit


def result(found: Found, case: str) -> Result:
    """Return what the suite has found of a case; an empty one if nothing."""
    parts = found.get("suite", {}).get(case, {})
    return Result(case, parts.get("memory", {}), parts.get("time", {}))


def ratio(found: Found, case: str, quantity: str, other: str = "stock") -> Value:
    """Return a quantity of the twin at 2 bits over another variant's."""
    measured = result(found, case).ratio(quantity, TWIN, other)
    return measured.median if measured else None


def ratios(*wanted: tuple[str, str]) -> Callable[[Found], list[Value]]:
    """Return a function from what was found to ratios over stock, by case and quantity."""
    return lambda found: [ratio(found, case, quantity) for case, quantity in wanted]


def num_alike(found: Found) -> list[Value]:
    """Return how many twins train as on the CPU."""
    runs = found.get("smoke")
    return [None if runs is None else sum(run.get("verdict") == "alike" for run in runs.values())]


def walls_over_busy(found: Found) -> list[Value]:
    """Return wall clock over busy time of TinyKGAT's steps on ml-100k."""
    phases = found.get("launches", {}).get("TinyKGAT", {}).get("twin", {})
    return [phases.get(phase, {}).get("wall_over_busy") for phase in ("rs", "kg")]


def bandwidths(found: Found) -> list[Value]:
    """Return the share of `copy_`'s bandwidth, in percent, at 2 bits and the largest size."""
    rows = found.get("kernels", {}).get("operators", {}).get("rows", [])
    shares = {
        row["operator"]: 100 * row["bandwidth_of_copy"]
        for row in rows
        if (row["shape"], row["bits"], row["dtype"]) == (LARGEST, 2, "float32")
    }
    return [shares.get("quantize"), shares.get("dequantize")]


def against_32_bits(found: Found) -> list[Value]:
    """Return the least and the largest epoch at 2 bits over that at 32, of the hand-written."""
    cases = [name for name in found.get("suite", {}) if name != "status"]
    known = [r for name in cases if (r := ratio(found, name, "epoch", "tiny32")) is not None]
    return [min(known), max(known)] if known else [None, None]


BOOK, DEEP = "TinyKGAT-amazon-book", "TinyKGAT-64-32-16"
OTHERS = ("TinyKGCN", "TinyKGNNLS", "TinyKGIN", "TinyRippleNet")
BARS = [
    Bar(
        "twins of ten that train two epochs to the CPU's metrics",
        "7",
        (10,),
        num_alike,
        at_least=True,
        form="{:.0f}",
    ),
    Bar(
        "TinyKGAT RS / KG step, ml-100k, over stock",
        "1.70 / 1.86",
        (0.5, 0.5),
        ratios(("TinyKGAT", "step_rs"), ("TinyKGAT", "step_kg")),
    ),
    Bar(
        "TinyKGAT RS / KG step, Amazon-Book's size",
        "0.67 / 3.09",
        (0.2, 0.5),
        ratios((BOOK, "step_rs"), (BOOK, "step_kg")),
    ),
    Bar(
        "TinyKGAT epoch, ml-100k / [64, 32, 16] / Amazon-Book's size",
        "0.99 / 1.28 / 1.60",
        (0.4, 0.4, 0.3),
        ratios(("TinyKGAT", "epoch"), (DEEP, "epoch"), (BOOK, "epoch")),
    ),
    Bar(
        "TinyKGCN / TinyKGNNLS / TinyKGIN / TinyRippleNet step, ml-100k",
        "crash / crash / crash / 0.97",
        (0.5, 0.5, 0.5, 0.5),
        ratios(*((case, "step_rs") for case in OTHERS)),
    ),
    Bar(
        "wall over device-busy time of TinyKGAT's RS / KG step, ml-100k",
        "6.8 / 5.6",
        (1.3, 1.3),
        walls_over_busy,
    ),
    Bar(
        "transient peak: KGAT at Amazon-Book's size / KGCN / KGNNLS",
        "0.21 / 1.05 / 0.80",
        (0.2, 0.6, 0.5),
        ratios((BOOK, "peak"), ("TinyKGCN", "peak"), ("TinyKGNNLS", "peak")),
    ),
    Bar(
        "quantize / dequantize, share of copy_'s bandwidth in %, 4 M x 64, 2 bits",
        "53 / 81",
        (80, 90),
        bandwidths,
        at_least=True,
        form="{:.0f}",
    ),
    Bar(
        "epoch at 2 bits over the same twin at 32: least / largest",
        "1.0 / 1.1",
        (1.1, 1.1),
        against_32_bits,
    ),
]
