"""What a run has found so far, as `gpu.json` (everything) and `gpu.md` (for people).

The page's first table has the numbers that were asked for (`bars`); then come how each step ended,
what each measured, and the end of the output of what failed. Both files are there whole or not at
all, and are written again after every step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bars import BARS, result
from benchmarks.suite.comparison import TWIN

ABOUT = "Build, check and measure on a bare machine with a GPU; without network."
STEPS_SHOWN = ("step_rs", "step_kg", "epoch", "evaluation")
BYTES_SHOWN = ("saved_rs", "peak", "total_peak")


def write(
    folder: Path, found: Mapping[str, Any], ended: Sequence[Mapping[str, Any]], device: str
) -> None:
    """Write both files."""
    content = {"date": time.strftime("%Y-%m-%d %H:%M"), "device": device}
    content |= {"steps": list(ended), "found": dict(found)}
    _whole(folder / "gpu.json", json.dumps(content, indent=1) + "\n")
    _whole(folder / "gpu.md", page(content))


def page(content: Mapping[str, Any]) -> str:
    """Return the Markdown page."""
    found, ended = content["found"], content["steps"]
    parts = ["# On a GPU", machine(content)]
    parts += [bars_table(found, content["device"]), "## Steps", steps_table(ended)]
    for title, table in (
        ("Training on both devices", smoke_table),
        ("Tests", tests_table),
        ("Suite: milliseconds, twin at 2 bits over stock and over 32 bits", suite_table),
        ("Launches: a step", launches_table),
        ("Operators: share of copy_'s bandwidth", kernels_table),
        ("Sparse product", spmm_table),
    ):
        if rows := table(found):
            parts += [f"## {title}", rows]
    parts += failures(found, ended)
    return "\n\n".join(parts) + "\n"


def machine(content: Mapping[str, Any]) -> str:
    """Return where and when, with versions."""
    about = content["found"].get("install", {})
    versions = about.get("versions", {})
    gpu = versions.get("gpu", "no GPU") if content["device"] == "cuda" else "a trial on the CPU"
    told = [
        f"{content['date']}: {gpu}",
        f"{about.get('cores', '?')} cores of {about.get('processor', '?')}",
        f"Python {about.get('python', '?')}",
        f"PyTorch {versions.get('torch', '?')}",
        f"RecBole {versions.get('recbole', '?')}",
        f"NumPy {versions.get('numpy', '?')}",
        f"libraries built in {about.get('build_seconds', '?')} s",
    ]
    return ", ".join(told) + "."


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lay out a table; an empty text without rows."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else ""


def bars_table(found: Mapping[str, Any], device: str) -> str:
    """Lay out what was asked for; a trial on the CPU keeps and breaks no promise."""
    rows = [
        [b.label, b.before, b.asked, b.measured(found)]
        + [b.holds(found) if device == "cuda" else "a trial"]
        for b in BARS
    ]
    return markdown(["", "before", "asked", "measured", "holds"], rows)


def steps_table(ended: Iterable[Mapping[str, Any]]) -> str:
    """Lay out how each step ended."""
    rows = [[s["name"], s["ended"], s.get("seconds", ""), s["limit"]] for s in ended]
    return markdown(["step", "ended", "seconds", "limit"], rows)


def smoke_table(found: Mapping[str, Any]) -> str:
    """Lay out the twins' training on both devices."""
    rows = []
    for name, run in found.get("smoke", {}).items():
        row = [name, run.get("verdict", "")]
        for key in ("device", "cpu"):
            one = run.get(key, {})
            losses = [f"{sum(loss):.4f}" for loss in one.get("losses", [])]
            first, value = next(iter(one.get("metrics", {}).items()), ("", 0.0))
            row += [", ".join(losses), f"{first} {value:.4f}" if first else ""]
        rows.append([*row, f"{run.get('device', {}).get('seconds', 0):.0f}"])
    head = ["twin", "verdict", "losses", "metric", "losses, CPU", "metric, CPU", "seconds"]
    return markdown(head, rows)


def tests_table(found: Mapping[str, Any]) -> str:
    """Lay out the tests' outcomes."""
    rows = [
        [name, *(counts.get(key, "–") for key in ("passed", "failed", "skipped", "seconds"))]
        + [", ".join(counts.get("names", [])) or ("" if not counts["status"] else "no report")]
        for name, counts in sorted(found.get("tests", {}).items())
    ]
    return markdown(["file", "passed", "failed", "skipped", "seconds", "what failed"], rows)


def suite_table(found: Mapping[str, Any]) -> str:
    """Lay out milliseconds and ratios of every case."""
    rows = []
    for name in (name for name in found.get("suite", {}) if name != "status"):
        case = result(found, name)
        for quantity in (*STEPS_SHOWN, *BYTES_SHOWN):
            values = [case.value(variant, quantity) for variant in ("stock", "tiny32", TWIN)]
            if any(value is not None for value in values):
                scale = 1e3 if quantity in STEPS_SHOWN else 1e-6
                numbers = ["–" if v is None else f"{scale * v:.3f}" for v in values]
                ratios = [case.ratio(quantity, TWIN, other) for other in ("stock", "tiny32")]
                rows.append([name, quantity, *numbers, *(r or "–" for r in ratios)])
        rows += [[name, "fails", f"{key}: {why}", "", "", "", ""] for key, why in errors(case)]
    head = ["case", "quantity (ms or MB)", "stock", "32 bits", "2 bits", "over stock"]
    return markdown([*head, "over 32 bits"], rows)


def errors(case: Any) -> list[tuple[str, str]]:
    """Return what variants of a case failed with."""
    return list(case.errors.items()) if case.memory or case.time else []


def launches_table(found: Mapping[str, Any]) -> str:
    """Lay out wall clock, busy time, launches and waits."""
    rows = []
    keys = ("wall_ms", "busy_ms", "wall_over_busy", "kernels", "launch_calls", "graph_launches")
    for case, variants in found.get("launches", {}).items():
        for variant, phases in variants.items():
            for phase, one in phases.items():
                if phase == "error":
                    rows.append([case, variant, f"fails: {one}", *[""] * (len(keys) + 1)])
                    continue
                numbers = ["–" if one[key] is None else f"{one[key]:.2f}" for key in keys]
                waits = ", ".join(f"{n} {count:.1f}" for n, count in one["waits_by_name"].items())
                rows.append([case, variant, phase, *numbers, waits or "none"])
    head = ["case", "variant", "phase", "wall, ms", "busy, ms", "wall/busy", "kernels", "calls"]
    return markdown([*head, "graphs", "waits"], rows)


def kernels_table(found: Mapping[str, Any]) -> str:
    """Lay out the operators' bandwidths, a column for each size."""
    rows = found.get("kernels", {}).get("operators", {}).get("rows", [])
    sizes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    shares: dict[tuple[str, Any], dict[Any, str]] = {}
    for row in rows:
        own = shares.setdefault((row["operator"], row["bits"] or ""), {})
        own[tuple(row["shape"])] = f"{row['bandwidth_of_copy']:.0%}"
    head = ["operator", "bits", *(" x ".join(map(str, size)) for size in sizes)]
    body = [[*key, *(own.get(size, "") for size in sizes)] for key, own in shares.items()]
    return markdown(head, body)


def spmm_table(found: Mapping[str, Any]) -> str:
    """Lay out the sparse product against the library's."""
    rows = found.get("kernels", {}).get("spmm", {}).get("rows", [])
    body = [
        [r["form"], *(f"{1e3 * r[key]:.3f}" for key in ("library_seconds", "ours_seconds"))]
        + [f"{r['library_seconds'] / r['ours_seconds']:.2f}"]
        for r in rows
    ]
    return markdown(["form", "library, ms", "ours, ms", "library / ours"], body)


def failures(found: Mapping[str, Any], ended: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the ends of the outputs of what failed."""
    tails = {f"step {step['name']}": step.get("tail", "") for step in ended}
    tails["build"] = found.get("install", {}).get("build_tail", "")
    tails["load"] = found.get("install", {}).get("load_tail", "")
    for name, run in found.get("smoke", {}).items():
        for key in ("device", "cpu"):
            tails[f"{name}, {key}"] = run.get(key, {}).get("error", "")
    tails |= {name: counts["tail"] for name, counts in found.get("tests", {}).items()}
    for name, one in found.get("sanitizer", {}).items():
        tails[f"sanitizer {name}"] = one["tail"] if one["status"] else ""
    shown = [f"### {name}\n\n```\n{text.strip()}\n```" for name, text in tails.items() if text]
    return ["## What failed", *shown] if shown else []


def _whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
