"""The suite's charts: memory by component, and memory against time; a panel for each case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only

import matplotlib.pyplot as plt  # noqa: E402

from benchmarks.suite.comparison import Result  # noqa: E402
from benchmarks.suite.variants import VARIANTS  # noqa: E402

MB = 10**6
COLUMNS = 3
COMPONENTS = {
    "parameters": "#4c72b0",
    "optimizer state": "#8da8d6",
    "graph": "#9a9a9a",
    "kept for backward": "#c44e52",
    "other temporaries, gradients": "#e8a9ab",
}
SHORT = {
    "stock": "stock",
    "checkpoint": "checkpointing",
    "bf16": "bf16",
    "offload": "offload",
    "compressed": "compressed_saves",
    "anomaly": "as shipped",
    "skip": "no unread triples",
    "tiny2-skip": "Tiny 2 bits, no unread triples",
    **{f"tiny{bits}": f"Tiny {bits} bit{'s' * (bits > 1)}" for bits in (32, 8, 4, 2, 1)},
}
MARKERS = dict(zip(SHORT, "osD^vX<>PPPPP", strict=True))
GREENS = {"tiny32": "#c7e9c0", "tiny8": "#a1d99b", "tiny4": "#74c476", "tiny2": "#238b45"}
COLOURS = {
    "stock": "black",
    "checkpoint": "#4c72b0",
    "bf16": "#dd8452",
    "offload": "#937860",
    "compressed": "#8172b3",
    "anomaly": "#c44e52",
    "skip": "#9a9a9a",
    "tiny2-skip": "#238b45",
    **GREENS,
    "tiny1": "#00441b",
}


def draw(results: dict[str, Result], folder: Path) -> None:
    """Write `memory.png` and `memory_time.png`."""
    with_memory = [r for r in results.values() if r.memory]
    with_both = [r for r in with_memory if r.time]
    _panels(
        with_memory,
        _memory,
        folder / "memory.png",
        "Memory of forward and backward",
        _components_key,
    )
    _panels(
        with_both, _memory_time, folder / "memory_time.png", "Memory against time", _variants_key
    )


def _panels(
    results: list[Result],
    panel: Callable[[Any, Result], None],
    path: Path,
    title: str,
    key: Callable[[Any, list[Result]], None],
) -> None:
    if not results:
        return
    columns = min(COLUMNS, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.1 * rows + 1.1), squeeze=False
    )
    for axis, result in zip(axes.flat, results, strict=False):
        panel(axis, result)
        axis.set_title(result.name, fontsize=11)
    for axis in axes.flat[len(results) :]:
        axis.axis("off")
    figure.suptitle(title, fontsize=13)
    key(figure, results)
    inches = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, 0.55 / inches, 1, 1 - 0.1 / inches))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def components(result: Result, variant: str) -> list[float]:
    """MB of each component; the last two are the transient peak of forward and backward."""
    counted = result.bytes(variant)
    rows = result.rows(variant).items()
    highest = max((row for phase, row in rows if phase != "refresh"), key=lambda row: row["peak"])
    kept = min(highest["saved"], highest["peak"])
    parts = [counted["parameter_bytes"], counted["optimizer_bytes"], counted["graph_bytes"]]
    return [part / MB for part in (*parts, kept, highest["peak"] - kept)]


def _memory(axis: Any, result: Result) -> None:
    """Stacked bars, a variant each."""
    variants = [variant for variant in result.variants if result.bytes(variant)]
    lefts = [0.0] * len(variants)
    places = range(len(variants))
    for index, colour in enumerate(COMPONENTS.values()):
        widths = [components(result, variant)[index] for variant in variants]
        axis.barh(places, widths, left=lefts, color=colour, height=0.75)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for place, end in zip(places, lefts, strict=True):
        axis.text(end, place, f" {end:,.0f}", va="center", fontsize=8)
    axis.set_yticks(places, [SHORT[variant] for variant in variants], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * max(lefts))
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel("resident and transient peak, MB", fontsize=8)


def _memory_time(axis: Any, result: Result) -> None:
    """Seconds of an epoch across, transient peak up; both logarithmic."""
    for variant in result.variants:
        time, peak = result.value(variant, "epoch"), result.value(variant, "peak")
        if time and peak:
            style = {"marker": MARKERS[variant], "color": COLOURS[variant]}
            axis.scatter(time, peak / MB, s=45, edgecolors="black", linewidths=0.4, **style)
    for scale in (axis.set_xscale, axis.set_yscale):
        scale("log")
    for limits, set_limits in (
        (axis.get_xlim(), axis.set_xlim),
        (axis.get_ylim(), axis.set_ylim),
    ):
        set_limits(limits[0] / 1.3, limits[1] * 1.3)
    for direction in (axis.xaxis, axis.yaxis):
        _plain_numbers(direction)
    axis.grid(True, which="both", alpha=0.25)
    axis.set_xlabel("seconds of an epoch", fontsize=8)
    axis.set_ylabel("transient peak, MB", fontsize=8)


def _plain_numbers(direction: Any) -> None:
    """Ticks at 1, 2, 5 of each decade, written as 0.5 or 200."""
    direction.set_major_locator(matplotlib.ticker.LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    direction.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    direction.set_minor_formatter(matplotlib.ticker.NullFormatter())
    direction.set_tick_params(labelsize=8)


def _key_columns(results: list[Result]) -> int:
    """As many as fit below the panels."""
    return 1 + min(COLUMNS, len(results))


def _components_key(figure: Any, results: list[Result]) -> None:
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COMPONENTS.values()]
    figure.legend(
        handles, list(COMPONENTS), loc="lower center", ncols=_key_columns(results), fontsize=8
    )


def _variants_key(figure: Any, results: list[Result]) -> None:
    seen = [key for key in VARIANTS if any(r.value(key, "epoch") for r in results)]
    handles = [
        plt.Line2D(
            [],
            [],
            marker=MARKERS[key],
            color=COLOURS[key],
            linestyle="",
            markeredgecolor="black",
            markeredgewidth=0.4,
        )
        for key in seen
    ]
    figure.legend(
        handles,
        [SHORT[key] for key in seen],
        loc="lower center",
        ncols=2 + _key_columns(results),
        fontsize=8,
    )
