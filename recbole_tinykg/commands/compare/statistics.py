"""The statistics of a comparison: per model, bit width and quantity, a twin and its stock model.

Runs are paired by seed: a pair has the same splits, initial weights and batches, so that what the
two runs share cancels in their difference. For n pairs with differences d (twin − stock)::

    interval   mean(d) ± t(0.975, n−1) · s(d) / √n       Student's t
    p (t)      two-sided paired t-test                   n ≥ 2, differences that differ
    p (W)      two-sided Wilcoxon signed-rank test       n ≥ 6: with fewer it cannot get below 0.05

Metrics are those of the test set at the best epoch. Bytes are those of one training step, ratios
stock / twin: how many times less the twin needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from recbole_tinykg.commands.compare.folder import Line
from recbole_tinykg.commands.compare.runs import Request, Run
from recbole_tinykg.model import get_model, stock_name_of
from recbole_tinykg.trainer.phases import PHASES

CONFIDENCE = 0.95
WILCOXON_PAIRS = 6
_DECIMALS = 12  # further ones are rounding errors: 0.1235 − 0.1234 is not 0.0001

Runs = Mapping[Run, Line]
Quantity = Callable[[Line], float | None]
"""From a finished run to a number; None if it was not measured."""


@dataclass(frozen=True)
class Row:
    """A quantity of a twin at a bit width, and its stock model's.

    Attributes:
        model: The twin.
        stock_name: The model it is compared with.
        dataset: Name of the data set.
        bits: Bit width of the twin.
        kind: `metric`, `bytes`, `seconds` or `epochs`.
        metric: Name of the quantity, such as `recall@10`.
        seeds: Those with a finished run of both; means are over them.
        stock: Mean of the stock model.
        tiny: Mean of the twin.
        difference: tiny − stock, and `difference_low`, `difference_high`: its 95 % interval;
            None with one seed.
        difference_percent: The same in per cent of `stock`, and its interval; None if that is 0.
        p_value: Of the paired t-test; None with one seed, or if no two differences differ.
        wilcoxon_p_value: None with fewer than six seeds, or if all differences are 0.
        ratio: stock / tiny; None if `tiny` is 0.
    """

    model: str
    stock_name: str
    dataset: str
    bits: int
    kind: str
    metric: str
    seeds: tuple[int, ...]
    stock: float
    tiny: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    difference_percent: float | None
    difference_percent_low: float | None
    difference_percent_high: float | None
    p_value: float | None
    wilcoxon_p_value: float | None
    ratio: float | None

    def to_plain(self) -> dict[str, Any]:
        """Return a dictionary, as a line of `comparison.jsonl`."""
        return dataclasses.asdict(self)


def rows(request: Request, runs: Runs) -> Iterator[Row]:
    """Compare every twin at every bit width that has a pair of finished runs."""
    for twin in request.twins:
        stock_name = stock_name_of(get_model(twin))
        for bits in request.bits:
            wanted = {s: (Run(stock_name, None, s), Run(twin, bits, s)) for s in request.seeds}
            finished = {seed: pair for seed, pair in wanted.items() if set(pair) <= runs.keys()}
            pairs = [(runs[stock], runs[tiny]) for stock, tiny in finished.values()]
            for kind, metric, value in quantities([line for pair in pairs for line in pair]):
                values = [(value(stock), value(tiny)) for stock, tiny in pairs]
                if not any(None in pair for pair in values):
                    own = (twin, stock_name, request.dataset, bits, kind, metric, tuple(finished))
                    yield Row(*own, **compare_pairs(*zip(*values, strict=True)))


def compare_pairs(stock: Sequence[float], tiny: Sequence[float]) -> dict[str, Any]:
    """Compare paired values; return the numbers of a `Row`."""
    differences = np.round(np.subtract(tiny, stock), _DECIMALS)
    mean, base = float(differences.mean()), float(np.mean(stock))
    low = high = None
    if len(differences) > 1:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * stats.sem(differences)
        low, high = float(mean - half), float(mean + half)
    has_t_test = len(differences) > 1 and np.ptp(differences) != 0
    has_wilcoxon = len(differences) >= WILCOXON_PAIRS and differences.any()
    percent = [None if base == 0 or d is None else 100 * d / base for d in (mean, low, high)]
    return {
        "stock": base,
        "tiny": float(np.mean(tiny)),
        "difference": mean,
        "difference_low": low,
        "difference_high": high,
        "difference_percent": percent[0],
        "difference_percent_low": percent[1],
        "difference_percent_high": percent[2],
        "p_value": float(stats.ttest_1samp(differences, 0.0).pvalue) if has_t_test else None,
        "wilcoxon_p_value": float(stats.wilcoxon(differences).pvalue) if has_wilcoxon else None,
        "ratio": base / float(np.mean(tiny)) if np.mean(tiny) else None,
    }


def quantities(lines: Sequence[Line]) -> Iterator[tuple[str, str, Quantity]]:
    """Yield kind and name of each quantity that all runs have, and how to read it from a run."""
    if not lines:
        return
    for name in lines[0]["test"] or ():
        yield "metric", name, _at("test", name)
    phases = [phase for phase in PHASES if all(phase in line["memory"] for line in lines)]
    for quantity in ("saved_activation_bytes", "peak_bytes"):
        steps = [_at("memory", phase, quantity) for phase in phases]
        for phase, step in zip(phases, steps, strict=True):
            yield "bytes", f"{phase}_{quantity}", step
        yield "bytes", f"largest_{quantity}", _largest(steps)
    yield "bytes", "process_peak_bytes", _at("process_peak_bytes")
    for name in ("epoch_seconds", "evaluation_seconds", "run_seconds"):
        yield "seconds", name, _at(name)
    yield "epochs", "epochs", _at("epochs")


def _at(*keys: str) -> Quantity:
    def at(line: Line) -> float | None:
        value: Any = line
        for key in keys:
            value = value[key]
        return value

    return at


def _largest(steps: Sequence[Quantity]) -> Quantity:
    def largest(line: Line) -> float | None:
        values = [step(line) for step in steps]
        known = [value for value in values if value is not None]
        return max(known) if known and len(known) == len(values) else None

    return largest
