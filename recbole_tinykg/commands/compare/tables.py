"""The tables of a comparison, for a terminal and in Markdown, and the notes below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from recbole_tinykg.commands.compare.folder import Line
from recbole_tinykg.commands.compare.runs import Request, Run
from recbole_tinykg.commands.compare.statistics import WILCOXON_PAIRS, Row
from recbole_tinykg.memory.byte_sizes import format_bytes
from recbole_tinykg.trainer.phases import PHASES

TERMINAL, MARKDOWN = "simple", "github"

_COSTS = {
    **{
        f"{phase}_{quantity}": f"{name} step: {label}"
        for phase, name in PHASES.items()
        for quantity, label in (("saved_activation_bytes", "saved"), ("peak_bytes", "peak"))
    },
    "largest_saved_activation_bytes": "saved, larger step",
    "largest_peak_bytes": "peak, larger step",
    "process_peak_bytes": "process: peak",
    "epoch_seconds": "seconds per epoch",
    "evaluation_seconds": "seconds per evaluation",
    "run_seconds": "seconds per run",
    "epochs": "epochs",
}
_WITHOUT_ANOMALY = (
    "Stock models ran without autograd's anomaly mode, which RecBole switches on and which costs "
    "18 to 35 % of an epoch; --detect_anomaly=True leaves it on."
)
_WITH_ANOMALY = "Stock models ran in autograd's anomaly mode, as RecBole ships them."
_RATIO = "what part of the stock model's it is"


def text(
    request: Request,
    rows: Sequence[Row],
    runs: Mapping[Run, Line],
    failures: Mapping[str, str],
    style: str,
) -> str:
    """Lay out the tables of every twin, with their notes.

    Args:
        request: What was asked for.
        rows: The results.
        runs: The finished runs they are made of.
        failures: Why a run failed, by its name.
        style: `TERMINAL` or `MARKDOWN`.
    """
    parts = []
    for twin in request.twins:
        own = [row for row in rows if row.model == twin]
        if own:
            parts += [_title(own, style), _metrics(own, style), _costs(own, style)]
    notes = _notes(request, rows, runs)
    notes += [f"Failed, and not in these numbers: {name}: {why}" for name, why in failures.items()]
    return "\n\n".join([*parts, "\n".join(f"* {note}" for note in notes)])


def _title(rows: Sequence[Row], style: str) -> str:
    seeds = sorted({seed for row in rows for seed in row.seeds})
    listed = ", ".join(map(str, seeds))
    title = f"{rows[0].model} against {rows[0].stock_name} on {rows[0].dataset}"
    return f"{'## ' if style == MARKDOWN else ''}{title}\n\nMeans over seeds {listed}."


def _metrics(rows: Sequence[Row], style: str) -> str:
    stock_name, twin = rows[0].stock_name, rows[0].model
    has_wilcoxon = any(row.wilcoxon_p_value is not None for row in rows)
    headers = ["bits", "test metric", stock_name, twin]
    headers += ["difference", "in %", "95 % interval, %", "p (t)", *["p (W)"] * has_wilcoxon]
    cells = []
    for row in (row for row in rows if row.kind == "metric"):
        percent = row.difference_percent
        low, high = row.difference_percent_low, row.difference_percent_high
        cells.append(
            [
                str(row.bits),
                row.metric,
                f"{row.stock:.4f}",
                f"{row.tiny:.4f}",
                f"{row.difference:+.4f}",
                "-" if percent is None else f"{percent:+.2f}",
                "-" if low is None or high is None else f"{low:+.2f} to {high:+.2f}",
                _p(row.p_value),
                *[_p(row.wilcoxon_p_value)] * has_wilcoxon,
            ]
        )
    return _table(headers, cells, style, "llrrrrcrr")


def _costs(rows: Sequence[Row], style: str) -> str:
    """Lay out a row per quantity and a column per bit width: value and, in brackets, ratio."""
    by_key = {(row.metric, row.bits): row for row in rows if row.kind != "metric"}
    widths = list(dict.fromkeys(row.bits for row in rows))
    cells = []
    for metric, label in _COSTS.items():
        own = [by_key.get((metric, bits)) for bits in widths]
        first = next((row for row in own if row), None)
        if first:
            cells.append([label, _quantity(first, first.stock), *map(_cost, own)])
    headers = ["", rows[0].stock_name, *(f"{bits} bit{'s' * (bits > 1)}" for bits in widths)]
    return _table(headers, cells, style, "l" + "r" * (len(widths) + 1))


def _cost(row: Row | None) -> str:
    if row is None:
        return "-"
    ratio = f" (1/{row.ratio:.3g})" if row.ratio is not None and row.kind != "epochs" else ""
    return _quantity(row, row.tiny) + ratio


def _quantity(row: Row, value: float) -> str:
    if row.kind == "bytes":
        return format_bytes(round(value))
    return f"{value:.1f}" if row.kind == "epochs" else f"{value:.3g}"


def _notes(request: Request, rows: Sequence[Row], runs: Mapping[Run, Line]) -> list[str]:
    numbers = sorted({len(row.seeds) for row in rows})
    notes = []
    if numbers and numbers[0] < 2:
        notes.append("One seed: no interval and no test can be computed.")
    if numbers and 2 <= numbers[-1] < WILCOXON_PAIRS:
        notes.append(
            "p (W), Wilcoxon's signed-rank test, is left out: with fewer than "
            f"{WILCOXON_PAIRS} seeds it cannot get below 0.05."
        )
    tests = sum(row.p_value is not None for row in rows if row.kind == "metric")
    if any(row.p_value is None and len(row.seeds) > 1 for row in rows if row.kind == "metric"):
        notes.append("- in p (t): every pair of runs has the same difference, nothing to test.")
    if tests > 1:
        notes.append(
            f"p (t): paired t-test. Of {tests} tests, about {tests * 0.05:.1f} come out below 0.05 "
            "where nothing differs."
        )
    notes.append(_WITH_ANOMALY if request.detect_anomaly else _WITHOUT_ANOMALY)
    machines = {f"{line['device']}, PyTorch {line['versions']['torch']}" for line in runs.values()}
    notes.append(f"Saved and peak are of one training step; in brackets: {_RATIO}.")
    notes.append(f"Runs: {len(runs)}, on {'; '.join(sorted(machines))}.")
    return notes


def _table(headers: Sequence[str], cells: Sequence[Sequence[str]], style: str, align: str) -> str:
    names = {"l": "left", "r": "right", "c": "center"}
    columns = [names[letter] for letter in align[: len(headers)]]
    return tabulate(
        cells, headers, tablefmt=style, disable_numparse=True, colalign=columns if cells else None
    )


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value >= 0.001 else "< 0.001"
