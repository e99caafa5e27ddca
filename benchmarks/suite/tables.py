"""The suite's results for people: Markdown, made of the JSON files that measurements left."""

from __future__ import annotations

from benchmarks.suite.comparison import (
    BARS,
    BYTES,
    SECONDS,
    TWIN,
    Ratio,
    Result,
    accuracy,
    better_rows,
)
from benchmarks.suite.variants import VARIANTS

MB = 10**6
INTRODUCTION = """# The benchmark suite

Twins against their stock models and against what a user would try with a stock model, made by

    python -m benchmarks.suite.run

*Kept*: what autograd keeps from forward to backward. *Transient peak*: the most bytes at once in
forward and backward, above parameters, optimizer state and graph; gradients included. *Resident*:
parameters, optimizer state, graph. *Total peak*: resident and the peak of a step with the
optimizer's part, which may be the highest; KGAT's refresh of its attention is a column of its own.
*Step*: forward, backward, optimizer, without the loader. *Epoch*: all of it. Bytes are exact.
Seconds are medians of interleaved rounds in one process; ratios are medians, with ranges, of the
ratios within a round. How each is measured: `memory.py`, `timing.py`, `variants.py` and `cases.py`
in [benchmarks/suite/](../../suite). Stock and twins alike have huge pages, as the command line asks
for them. recall@10 is that of [accuracy.md](../accuracy.md), under its settings.

![Memory by component](memory.png)

![Memory against time](memory_time.png)
"""


def page(results: dict[str, Result]) -> str:
    """All tables."""
    parts = [INTRODUCTION, "## INT2 against stock", summary_table(results)]
    parts += ["## Bars", bars_table(results)]
    parts += [section(result) for result in results.values()]
    return "\n\n".join(parts) + "\n"


def label(result: Result, variant: str) -> str:
    """Return a row's name."""
    names = {"stock": result.about["stock"], "twin": result.about["twin"]}
    return VARIANTS[variant].label.format(**names)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Lay out a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary_table(results: dict[str, Result]) -> str:
    """Lay out a row for each case."""
    head = ["case", "kept, RS", "transient peak", "total peak", "step, RS", "epoch", "evaluation"]
    rows = []
    for result in results.values():
        fewer = times_fewer(result, "saved_rs", TWIN)
        ratios = [
            times(result.ratio(quantity, TWIN, "stock"))
            for quantity in ("peak", "total_peak", "step_rs", "epoch", "evaluation")
        ]
        rows.append([result.name, fewer, *ratios, times(result.ratio("epoch", TWIN, "tiny32"))])
    return markdown([*head, "epoch, INT2 to 32 bits"], rows)


def bars_table(results: dict[str, Result]) -> str:
    """Lay out what was promised of INT2, and what holds."""
    rows = []
    for bar in BARS:
        for result in results.values():
            if (found := bar.holds(result)) is not None:
                ratio, holds = found
                what = {**BYTES, **SECONDS}[bar.quantity]
                against = label(result, bar.other)
                verdict = "yes" if holds else "**no**"
                limit = f"{bar.limit:.3g}"
                rows.append([result.name, what, against, limit, str(ratio), verdict])
    return markdown(["case", "quantity", "ratio to", "at most", "measured", "holds"], rows)


def section(result: Result) -> str:
    """Lay out the tables of a case."""
    about = result.about
    where = about["where"]
    settings = "".join(f", `{k}` {v}" for k, v in about["request"]["settings"].items())
    parts = [
        f"## {result.name}",
        f"{about['dataset']}, RecBole's defaults{settings}. {about['note']}".strip(),
        f"{where['device']}, {where['threads']} threads of {where['cores']} cores, "
        f"Python {where['python']}, PyTorch {where['torch']}, RecBole {where['recbole']}, "
        f"{where['date']}.",
    ]
    parts += [memory_table(result)] if result.memory else []
    parts += [time_note(result), time_table(result)] if result.time else []
    return "\n\n".join([*parts, verdict(result)])


def memory_table(result: Result) -> str:
    """Bytes of every variant."""
    phases = [phase for phase in ("rs", "kg") if f"saved_{phase}" in result.bytes("stock")]
    peaks = [*phases, *(["refresh"] if "peak_refresh" in result.bytes("stock") else [])]
    head = ["variant"]
    for phase in phases:
        head += [f"kept {phase.upper()}, MB", "fewer"]
    head += [f"peak {name_of(phase)}, MB" for phase in peaks]
    head += ["peak, × stock", "resident, MB", "total peak, MB", "× stock"]
    rows = []
    for variant in result.variants:
        counted = result.bytes(variant)
        row = [label(result, variant)]
        if not counted:
            rows.append(failure(result, variant, len(head)))
            continue
        for phase in phases:
            quantity = f"saved_{phase}"
            row += [megabytes(counted[quantity]), times_fewer(result, quantity, variant)]
        row += [megabytes(counted[f"peak_{phase}"]) for phase in peaks]
        row += [times(result.ratio("peak", variant, "stock")), megabytes(counted["resident"])]
        row += [
            megabytes(counted["total_peak"]),
            times(result.ratio("total_peak", variant, "stock")),
        ]
        rows.append(row)
    return markdown(head, [row for row in rows if row])


def failure(result: Result, variant: str, width: int) -> list[str]:
    """Return a row that says why there are no numbers; nothing if it was not asked for."""
    if variant not in result.errors:
        return []
    why = result.errors[variant].replace("|", "\\|")
    return [label(result, variant), f"fails: {why}", *[""] * (width - 2)]


def time_note(result: Result) -> str:
    """How many rounds, and what was cut."""
    cuts = [
        f"{taken} of {whole} batches of {phase.upper()}"
        for phase, (taken, whole) in result.time["steps"].items()
        if taken < whole
    ]
    cut = f" of {' and '.join(cuts)}, scaled to all" if cuts else ""
    return f"Medians of {result.time['request']['rounds']} rounds{cut}."


def time_table(result: Result) -> str:
    """Seconds of every variant, and recall where it was trained."""
    steps = [q for q in ("step_rs", "step_kg") if result.rounds("stock", q)]
    passes = [step.removeprefix("step_") for step in steps]
    passes += ["refresh"] if (result.value("stock", "refresh") or 0) > 1e-3 else []
    head = ["variant", *(f"step {q.removeprefix('step_').upper()}, ms" for q in steps)]
    head += [f"{name_of(q)}, s" for q in passes]
    head += ["epoch, s", "epoch, × stock", "evaluation, s", "× stock", "construction, s"]
    trained = accuracy(result.about["twin"], result.about["dataset"])
    head += ["recall@10"] if trained else []
    rows = []
    for variant in result.variants:
        if not result.rounds(variant, "epoch"):
            rows.append(failure(result, variant, len(head)))
            continue
        row = [label(result, variant)]
        row += [f"{1000 * (result.value(variant, step) or 0):.1f}" for step in steps]
        row += [seconds(result.value(variant, q)) for q in (*passes, "epoch")]
        row += [times(result.ratio("epoch", variant, "stock"))]
        row += [seconds(result.value(variant, "evaluation"))]
        row += [times(result.ratio("evaluation", variant, "stock"))]
        row += [seconds(result.value(variant, "construction"))]
        if trained:
            row += [f"{trained[variant][0]:.4f}" if variant in trained else ""]
        rows.append(row)
    return markdown(head, [row for row in rows if row])


def verdict(result: Result) -> str:
    """Which stock rows are better than the twin at 2 bits, in memory or in time."""
    is_stock = {key: variant.is_stock for key, variant in VARIANTS.items()}
    found = better_rows(result, is_stock)
    names = [line.replace(line.split()[0], label(result, line.split()[0]), 1) for line in found]
    return f"Rows better than {result.about['twin']} INT2: {'; '.join(names) or 'none'}."


def name_of(phase: str) -> str:
    """Return a phase in a table's head."""
    return phase if phase == "refresh" else phase.upper()


def megabytes(count: float) -> str:
    """Bytes as MB of 10⁶ bytes."""
    return f"{count / MB:,.2f}"


def seconds(value: float | None) -> str:
    """Seconds, empty where nothing was measured."""
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def times(ratio: Ratio | None) -> str:
    """Return a ratio, empty where there is none."""
    return str(ratio) if ratio else ""


def times_fewer(result: Result, quantity: str, variant: str) -> str:
    """How many times fewer bytes than stock's."""
    ratio = result.ratio(quantity, variant, "stock")
    if ratio is None:
        return ""
    return f"{1 / ratio.median:.1f}×" if ratio.median else "nothing kept"
