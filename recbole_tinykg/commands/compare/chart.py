"""The chart of a comparison: accuracy, memory and time over the bits; a row of panels per twin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_tinykg.commands.compare.statistics import Row

_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#64b5cd", "#8c8c8c")
_MEMORY = {
    "largest_saved_activation_bytes": "saved activations",
    "largest_peak_bytes": "peak of a step",
}
_SECONDS = {"epoch_seconds": "per epoch", "evaluation_seconds": "per evaluation"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the chart as PNG, if there is something to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # files only, no window
    from matplotlib.figure import Figure

    twins = list(dict.fromkeys(row.model for row in rows))
    if not twins:
        return
    figure = Figure(figsize=(15, 4.6 * len(twins)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(twins), 3, squeeze=False, width_ratios=(1.5, 1, 1))
    for twin, (metrics, memory, seconds) in zip(twins, panels, strict=True):
        own = [row for row in rows if row.model == twin]
        _draw_metrics(metrics, own)
        _draw_memory(memory, own)
        _draw_seconds(seconds, own)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)


def _draw_metrics(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the difference to stock in per cent, with its interval."""
    own = [row for row in rows if row.kind == "metric" and row.difference_percent is not None]
    names = list(dict.fromkeys(row.metric for row in own))
    for number, name in enumerate(names):
        for place, row in enumerate(row for row in own if row.metric == name):
            x = _bits(rows).index(row.bits) + 0.7 * ((number + 0.5) / len(names) - 0.5)
            y, low = row.difference_percent, row.difference_percent_low
            error = None if low is None or y is None else y - low
            axes.errorbar(
                x,
                y,
                yerr=error,
                fmt="o",
                capsize=3,
                color=_COLOURS[number % len(_COLOURS)],
                label=None if place else name,
            )
    axes.axhline(0, color="black", linewidth=0.8)
    seeds = len(rows[0].seeds)
    interval = ", 95 % interval" if seeds > 1 else ""
    _label(axes, rows, f"{rows[0].model} − {rows[0].stock_name}, % ({seeds} seeds{interval})", 5)


def _draw_memory(axes: Any, rows: Sequence[Row]) -> None:
    """Draw how many times less memory the twin needs."""
    _draw_bars(axes, rows, _MEMORY, lambda row: row.ratio, ".3g")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.margins(y=0.15)
    _label(axes, rows, f"memory: {rows[0].stock_name} / {rows[0].model}, larger step", 2)


def _draw_seconds(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the seconds of the twin, with a line at the stock model's."""
    _draw_bars(axes, rows, _SECONDS, lambda row: row.tiny, ".2g")
    for (metric, label), colour in zip(_SECONDS.items(), _COLOURS, strict=False):
        for row in [row for row in rows if row.metric == metric][:1]:
            name = f"{row.stock_name} {label}: {row.stock:.2g}"
            axes.axhline(row.stock, color=colour, linestyle="--", linewidth=1.2, label=name)
    axes.margins(y=0.25)
    _label(axes, rows, f"seconds of {rows[0].model}; dashed: {rows[0].stock_name}", 2)


def _draw_bars(
    axes: Any,
    rows: Sequence[Row],
    labels: Mapping[str, str],
    height: Callable[[Row], float | None],
    digits: str,
) -> None:
    """Draw, on a logarithmic scale, two bars per bit width: a quantity each."""
    for number, (metric, label) in enumerate(labels.items()):
        heights = {r.bits: height(r) for r in rows if r.metric == metric and height(r) is not None}
        places = [_bits(rows).index(bits) + 0.4 * (number - 0.5) for bits in heights]
        values = list(heights.values())
        bars = axes.bar(places, values, 0.4, color=_COLOURS[number], label=label)
        axes.bar_label(bars, [f"{value:{digits}}" for value in values], fontsize=8)
    axes.set_yscale("log")


def _label(axes: Any, rows: Sequence[Row], title: str, legend_columns: int) -> None:
    """Label a panel, with its legend below it, where it hides nothing."""
    axes.legend(fontsize=8, ncols=legend_columns, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("bits")
    axes.set_xticks(range(len(_bits(rows))), list(map(str, _bits(rows))))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _bits(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(row.bits for row in rows))
