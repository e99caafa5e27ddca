"""How time and memory grow with the graph, and the largest graph that trains in 20 GB.

    python -m benchmarks.growth.run
    python -m benchmarks.growth.run --series amazon-book --scales 1,2,4 --models TinyKGAT
    python -m benchmarks.growth.run --largest

Two series of synthetic data (`synthetic_data`): ml-100k's sizes times 1 to 16 through RecBole's
loader, for every hand-written twin at INT2 and its stock model; and Amazon-Book's sizes times 1 to
16 with graphs built from arrays, for KGAT and its twin, with reverse relations and layers
[64, 32, 16].
`point.py` measures each point in a process of its own. It is ended, and the row says so, as
soon as its resident memory exceeds the limit. Points in `growth.jsonl` are not measured again.

Slopes are those of a least-squares line through the logarithms of a quantity and of the edges: 1 is
linear. With `--largest`, scales between the largest that fits and the smallest that does not are
tried until they are neighbours; the first try is where a line through the resident peaks meets the
limit. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.growth import charts
from benchmarks.processes import RESULTS, environment

LIMIT_BYTES = 20 * 10**9
SECONDS_PER_POINT = 900
SCALES = (1, 2, 4, 8, 16)
TWINS = {
    "ml-100k": ("TinyKGAT", "TinyKGCN", "TinyKGNNLS", "TinyKGIN", "TinyRippleNet"),
    "amazon-book": ("TinyKGAT",),
}
QUANTITIES = {
    "RS step, s": ("rs", "seconds"),
    "KG step, s": ("kg", "seconds"),
    "refresh, s": ("refresh", "seconds"),
    "model built in, s": ("model_seconds",),
    "RS saved, MB": ("rs", "saved_bytes"),
    "RS peak, MB": ("rs", "peak_bytes"),
    "KG saved, MB": ("kg", "saved_bytes"),
    "KG peak, MB": ("kg", "peak_bytes"),
    "refresh peak, MB": ("refresh", "peak_bytes"),
    "resident while training, MB": ("rss_bytes", "training"),
}
"""What the tables show, and where it is in a row."""

Row = dict[str, Any]


def main() -> None:
    """Measure what is missing, then write tables and charts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", default=",".join(TWINS))
    parser.add_argument("--scales", default=",".join(map(str, SCALES)))
    parser.add_argument(
        "--models", default="", help="stock models and twins; empty: all of a series"
    )
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", action="store_true", help="also search the largest that fits")
    parser.add_argument("--data", type=Path, help="folder that keeps the data between runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "growth")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.data or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        common = {"bits": args.bits, "threads": args.threads, "folder": str(folder)}
        points = Points(args.output.with_suffix(".jsonl"), common)
        for series in args.series.split(","):
            chosen = args.models.split(",") if args.models else pairs(series)
            for scale in map(int, args.scales.split(",")):
                for model in chosen:
                    points.measure(series, model, scale)
            if args.largest and series == "amazon-book":
                for model in chosen:
                    search_largest(points, series, model)
    report(points.rows, args)


def pairs(series: str) -> list[str]:
    """Stock models and twins of a series, each twin behind its stock model."""
    return [name for twin in TWINS[series] for name in (twin.removeprefix("Tiny"), twin)]


class Points:
    """Rows in a file of JSON lines; one is measured when it is asked for and not there."""

    def __init__(self, file: Path, common: dict[str, Any]) -> None:
        """Read the rows that are there."""
        self._file, self._common = file, common
        lines = file.read_text().splitlines() if file.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def of(self, series: str, model: str) -> list[Row]:
        """Rows of a model in a series, by scale."""
        own = [r for r in self.rows if (r["series"], r["model"]) == (series, model)]
        return sorted(own, key=lambda r: r["scale"])

    def measure(self, series: str, model: str, scale: int) -> Row:
        """Return the row of a point; not run if a smaller graph did not fit."""
        own = self.of(series, model)
        for row in own:
            if row["scale"] == scale or (row["scale"] < scale and not row["fits"]):
                return row
        point = {"series": series, "model": model, "scale": scale}
        row = {**point, **run({**point, **self._common})}
        self.rows.append(row)
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row


def run(point: Row) -> Row:
    """Measure a point in a process, and end it when it takes more memory or time than it may."""
    start, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "benchmarks.growth.point", json.dumps(point)]
        process = psutil.Popen(command, stdout=output, env=environment())
        while process.poll() is None:
            peak = max(peak, resident(process))
            seconds = time.monotonic() - start
            if peak > LIMIT_BYTES or seconds > SECONDS_PER_POINT:
                process.kill()
                process.wait()
                reason = "memory" if peak > LIMIT_BYTES else "time"
                return {"fits": False, "ended_for": reason, "rss_seen": peak, "seconds": seconds}
            time.sleep(0.02)
        output.seek(0)
        lines = output.read().decode().splitlines()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"fits": True, **json.loads(lines[-1])}


def resident(process: psutil.Popen) -> int:
    """Resident bytes, 0 if the process has just ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def search_largest(points: Points, series: str, model: str) -> None:
    """Try scales until one that fits and one that does not are neighbours."""
    while True:
        rows = points.of(series, model)
        fit = [r for r in rows if r["fits"]]
        too_large = min((r["scale"] for r in rows if not r["fits"]), default=None)
        if not fit or too_large == fit[-1]["scale"] + 1:
            return
        scale = predict_scale(fit)
        if too_large is not None:
            scale = min(scale, too_large - 1)
        points.measure(series, model, max(scale, fit[-1]["scale"] + 1))


def predict_scale(rows: list[Row]) -> int:
    """Return the scale at which a line through the peaks of two points or more meets the limit."""
    if len(rows) < 2:
        return 2 * rows[-1]["scale"]
    scales, peaks = zip(*((r["scale"], max(r["rss_bytes"].values())) for r in rows), strict=True)
    slope, offset = np.polyfit(scales[-3:], peaks[-3:], 1)
    return int((LIMIT_BYTES - offset) / slope)


def value(row: Row, path: tuple[str, ...]) -> float | None:
    """Return a quantity of a row, None where the model has none."""
    found: Any = row
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def slope(rows: list[Row], path: tuple[str, ...]) -> float | None:
    """Fitted exponent of a quantity against the edges; None for fewer than three points."""
    known = [(r["edges"], value(r, path)) for r in rows if r["fits"] and value(r, path)]
    if len(known) < 3:
        return None
    edges, values = np.log(np.array(known, dtype=float)).T
    return float(np.polyfit(edges, values, 1)[0])


def report(rows: list[Row], args: argparse.Namespace) -> None:
    """Print and write the tables, and draw the charts."""
    parts = [HEAD.format(threads=args.threads, torch=torch.__version__, bits=args.bits)]
    slopes: dict[str, dict[str, float | None]] = {}
    for series in dict.fromkeys(r["series"] for r in rows):
        own = sorted((r for r in rows if r["series"] == series), key=lambda r: r["scale"])
        models = [m for m in pairs(series) if any(r["model"] == m for r in own)]
        parts.append(f"\n## {series}\n\n![{series}](growth_{series}.png)\n")
        for model in models:
            mine = [r for r in own if r["model"] == model]
            fitted = {name: slope(mine, path) for name, path in QUANTITIES.items()}
            slopes[f"{series} {model}"] = fitted
            parts.append(f"\n### {model}\n\n" + table(mine, fitted))
        charts.draw(own, models, args.output.with_name(f"growth_{series}.png"))
    text = "\n".join(parts) + "\n"
    args.output.with_suffix(".md").write_text(text)
    where = {"torch": torch.__version__, "threads": args.threads, "machine": platform.machine()}
    result = json.dumps({**where, "slopes": slopes, "rows": rows})
    args.output.with_suffix(".json").write_text(result + "\n")
    print(text)
    print(result)


HEAD = """# Growth of time and memory with the graph

`python -m benchmarks.growth.run`: {threads} CPU cores, PyTorch {torch}; twins at {bits} bits;
batches of 2,048 rows; method and data in the heads of `benchmarks/growth/run.py` and
`benchmarks/synthetic_data/synthetic.py`. The last row of a table is the fitted exponent against
the edges, 1 being linear. "Resident while training" is all memory of the process."""


def table(rows: list[Row], fitted: dict[str, float | None]) -> str:
    """Markdown: a line per scale, and the slopes."""
    names = [name for name, path in QUANTITIES.items() if any(value(r, path) for r in rows)]
    lines = [f"| scale | nodes | edges | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        if not row["fits"]:
            reason = "20 GB" if row["ended_for"] == "memory" else f"{SECONDS_PER_POINT} s"
            lines.append(f"| {row['scale']} | | | does not fit in {reason}" + " |" * len(names))
            continue
        cells = [cell(name, value(row, QUANTITIES[name])) for name in names]
        counts = f"{row['scale']} | {row['nodes']:,} | {row['edges']:,}"
        lines.append(f"| {counts} | {' | '.join(cells)} |")
    slopes = ["" if fitted[name] is None else f"{fitted[name]:.2f}" for name in names]
    return "\n".join([*lines, f"| exponent | | | {' | '.join(slopes)} |"])


def cell(name: str, number: float | None) -> str:
    """Return a number in the unit of its column."""
    if number is None:
        return ""
    return f"{number / 1e6:,.1f}" if name.endswith("MB") else f"{number:.3g}"


if __name__ == "__main__":
    main()
