"""What the suite's numbers say: medians, paired ratios, who beats the twin, which bars are met.

Quantities of a case, by variant, all the smaller the better: bytes are exact, seconds are medians
of the rounds. A ratio of seconds is the median of the ratios within a round, with their range.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.processes import RESULTS

TWIN = "tiny2"
TIE = 0.999  # a ratio from which on two rows are alike
BYTES = {
    "saved_rs": "bytes kept, RS",
    "saved_kg": "bytes kept, KG",
    "peak": "transient peak",
    "total_peak": "total peak",
}
SECONDS = {
    "step_rs": "seconds of a step, RS",
    "step_kg": "seconds of a step, KG",
    "refresh": "seconds of the refresh",
    "epoch": "seconds of an epoch",
    "evaluation": "seconds of an evaluation",
}


@dataclass
class Result:
    """What is known of a case: the contents of its files, and the quantities made of them."""

    name: str
    memory: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What both files tell of the case: twin, stock model, data, machine."""
        return self.time or self.memory

    @property
    def errors(self) -> dict[str, str]:
        """First lines of what variants failed with."""
        return {**self.memory.get("errors", {}), **self.time.get("errors", {})}

    @property
    def variants(self) -> list[str]:
        """Keys, in the order in which they were measured."""
        both = (part["request"]["variants"] for part in (self.time, self.memory) if part)
        return list(dict.fromkeys(key for keys in both for key in keys))

    def rows(self, variant: str) -> dict[str, dict[str, Any]]:
        """Bytes of a variant by phase."""
        rows = self.memory.get("rows", [])
        return {row["phase"]: row for row in rows if row["variant"] == variant}

    def bytes(self, variant: str) -> dict[str, float]:
        """Bytes of a variant, empty without a measurement."""
        rows = self.rows(variant)
        if not rows or variant in self.memory["errors"]:
            return {}
        resident = self.memory["resident"][variant]
        steps = [row for phase, row in rows.items() if phase != "refresh"]
        return {
            **{f"saved_{row['phase']}": row["saved"] for row in steps},
            **{f"peak_{phase}": row["peak"] for phase, row in rows.items()},
            **resident,
            "resident": sum(resident.values()),
            "peak": max(row["peak"] for row in steps),
            "total_peak": sum(resident.values()) + max(row["step_peak"] for row in steps),
        }

    def rounds(self, variant: str, quantity: str) -> list[float]:
        """Seconds of a variant, round by round."""
        rounds = self.time.get("seconds", {}).get(variant, [])
        return [measured[quantity] for measured in rounds if quantity in measured]

    def value(self, variant: str, quantity: str) -> float | None:
        """Bytes, or the median of seconds; None without a measurement."""
        if rounds := self.rounds(variant, quantity):
            return median(rounds)
        return self.bytes(variant).get(quantity)

    def ratio(self, quantity: str, variant: str, other: str) -> Ratio | None:
        """Return a variant's quantity over another's; None if one is not measured or is 0."""
        mine, others = self.rounds(variant, quantity), self.rounds(other, quantity)
        if not mine or not others:
            pair = self.bytes(variant).get(quantity), self.bytes(other).get(quantity)
            mine, others = [pair[0]] if pair[0] is not None else [], [pair[1] or 0]
        if not mine or not all(others):
            return None
        ratios = sorted(a / b for a, b in zip(mine, others, strict=False))
        return Ratio(median(ratios), ratios[0], ratios[-1])


@dataclass(frozen=True)
class Ratio:
    """Median and range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """For a table; the range where there is one."""
        spread = f" ({self.low:.3f} to {self.high:.3f})" if self.low < self.high else ""
        return f"{self.median:.3f}{spread}"


def load(folder: Path) -> dict[str, Result]:
    """All cases of a folder, by name; files that are not whole are left out."""
    results: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")):
        name, _, part = path.stem.rpartition(".")
        if part in ("memory", "time"):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue
            if isinstance(content, dict) and "request" in content:
                setattr(results.setdefault(name, Result(name)), part, content)
    return results


def better_rows(result: Result, is_stock: dict[str, bool]) -> list[str]:
    """Stock rows that are better than the twin at 2 bits in anything, with the ratios."""
    found = []
    for variant in result.variants:
        for quantity, name in {**BYTES, **SECONDS}.items():
            ratio = result.ratio(quantity, variant, TWIN) if is_stock.get(variant) else None
            twins = result.value(TWIN, quantity)
            if ratio and ratio.median < TIE and twins and not _is_noise(quantity, twins):
                found.append(f"{variant} in {name}: {ratio} of the twin's")
    return found


def _is_noise(quantity: str, value: float) -> bool:
    """KGAT alone has a refresh; of the others, what the clock reads is the loop around it."""
    return quantity == "refresh" and value < 1e-3


@dataclass(frozen=True)
class Bar:
    """A promise: a quantity of the twin at 2 bits is at most `limit` times another variant's."""

    quantity: str
    limit: float
    other: str = "stock"
    cases: tuple[str, ...] = ()  # empty: all

    def holds(self, result: Result) -> tuple[Ratio, bool] | None:
        """Return the ratio, and whether it keeps the promise; None where it is not measured."""
        if self.cases and result.name not in self.cases:
            return None
        ratio = result.ratio(self.quantity, TWIN, self.other)
        return (ratio, ratio.median <= self.limit) if ratio else None


LARGE = ("TinyKGAT-amazon-book",)
BARS = [
    Bar("saved_rs", 1 / 30, cases=LARGE),
    Bar("peak", 0.2, cases=LARGE),
    Bar("step_rs", 0.35, cases=LARGE),
    Bar("total_peak", 0.4, cases=LARGE),
    Bar("epoch", 0.25, cases=("TinyKGAT",)),
    Bar("epoch", 0.45, cases=("TinyKGCN",)),
    Bar("epoch", 0.3, cases=("TinyKGNNLS",)),
    Bar("epoch", 0.2, cases=("TinyKGIN",)),
    Bar("epoch", 0.02, cases=("TinyRippleNet",)),
    Bar("peak", 1.0),
    Bar("epoch", 1.1, other="tiny32"),
]


def accuracy(twin: str, dataset: str, folder: Path = RESULTS) -> dict[str, tuple[float, int]]:
    """Mean recall@10 and the number of seeds, of variants that `accuracy.py` has trained."""
    runs: dict[str, dict[int, float]] = {}
    for path in folder.glob(f"accuracy_{twin}_{dataset}_*.jsonl"):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            runs.setdefault(line["variant"], {})[line["seed"]] = line["test"]["recall@10"]
    keys = {"stock": "stock", "32": "tiny32", "2": "tiny2"}
    runs = {keys[variant]: seeds for variant, seeds in runs.items() if variant in keys}
    common = set.intersection(*map(set, runs.values())) if runs else set()
    return {k: (mean(seeds[s] for s in common), len(common)) for k, seeds in runs.items() if common}


def summary(results: dict[str, Result]) -> list[dict[str, Any]]:
    """For each case, the twin at 2 bits against the stock model, and against itself at 32 bits."""
    lines = []
    for result in results.values():
        line: dict[str, Any] = {"case": result.name}
        for quantity in (*BYTES, *SECONDS):
            ratio = result.ratio(quantity, TWIN, "stock")
            line[quantity] = ratio and round(ratio.median, 6)
        against_itself = result.ratio("epoch", TWIN, "tiny32")
        lines.append({**line, "epoch_to_32_bits": against_itself and against_itself.median})
    return lines
