"""Charts of growth: time and memory against edges, log-log, beside a linear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {
    "seconds of an RS step": (("rs", "seconds"), 1.0),
    "peak of an RS step, MB": (("rs", "peak_bytes"), 1e-6),
    "kept for backward in an RS step, MB": (("rs", "saved_bytes"), 1e-6),
    "resident memory while training, MB": (("rss_bytes", "training"), 1e-6),
}


def draw(rows: list[dict[str, Any]], models: list[str], file: Path) -> None:
    """Draw four panels; stock models dashed, twins solid; grey: proportional to edges."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    stock_names = list(dict.fromkeys(model.removeprefix("Tiny") for model in models))
    for axis, (title, (path, unit)) in zip(axes.flat, PANELS.items(), strict=True):
        for model in models:
            own = [row for row in rows if row["model"] == model and row["fits"]]
            edges = [row["edges"] for row in own]
            values = [unit * row[path[0]][path[1]] for row in own]
            is_twin = model.startswith("Tiny")
            axis.loglog(
                edges,
                values,
                "o-" if is_twin else "s--",
                color=f"C{stock_names.index(model.removeprefix('Tiny'))}",
                label=model,
            )
            if is_twin and edges:
                line = [values[0] * count / edges[0] for count in edges]
                axis.loglog(edges, line, color="0.8", zorder=0)
        axis.set(title=title, xlabel="edges")
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    figure.savefig(file, dpi=100)
    plt.close(figure)
