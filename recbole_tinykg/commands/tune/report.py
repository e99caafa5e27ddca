"""What a search prints: a line per trial, the table, the Pareto front and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_tinykg.commands.report import align
from recbole_tinykg.commands.tune.objectives import OBJECTIVES, modes
from recbole_tinykg.commands.tune.records import Trial

_UNITS = {"saved": ("KiB", 2**10), "peak": ("MiB", 2**20), "seconds": ("s", 1)}
_AXES = {
    "saved": "saved for backward, KiB",
    "peak": "peak of a step, MiB",
    "seconds": "s per epoch",
}


def headline(study: Any, folder: Path) -> str:
    """Return what is going to be searched."""
    searched = ", ".join(
        f"{name} {kind} {arguments}"
        for name, domain in study.search.items()
        for kind, arguments in domain.items()
    )
    return (
        f"{study.model} on {study.dataset}: {study.num_trials} trials of at most {study.epochs} "
        f"epochs; searcher {study.searcher}, scheduler {study.scheduler}; in {folder}\n"
        f"searched: {searched}"
    )


def against_default(best: Trial, default: Trial, study: Any) -> str:
    """Compare the best trial with the configuration before the search."""
    ours = f"best: trial {best.number}, {study.metric} {cell('valid', best.valid)}"
    before = f"default: trial {default.number}, {study.metric} {cell('valid', default.valid)}"
    if not best.valid or not default.valid:
        return f"{ours}; {before}"
    change = 100 * (best.valid / default.valid - 1)
    return f"{ours}; {before}; {change:+.1f} % (on validation)"


def trial_line(trial: Trial, metric: str) -> str:
    """Return the outcome of a trial in a line."""
    parameters = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
    if trial.status == "failed":
        return f"trial {trial.number}: failed, {trial.error} ({parameters})"
    epochs = f"{trial.epochs} epoch{'s' if trial.epochs != 1 else ''}"
    valid, saved, peak, seconds = (cell(name, getattr(trial, name)) for name in OBJECTIVES)
    return (
        f"trial {trial.number}: {metric} {valid}, {trial.status} after {epochs}, "
        f"{saved} saved, {peak} peak, {seconds} per epoch ({parameters})"
    )


def trials_table(trials: Sequence[Trial], metric: str, best: int | None) -> str:
    """Lay out a row per trial, the best one marked; below them why trials failed."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    rows = [["trial", *names, metric, "epochs", "saved", "peak", "s/epoch", "status"]]
    for trial in trials:
        rows.append(
            [
                f"{trial.number}{'*' if trial.number == best else ' '}",
                *(str(trial.parameters.get(name, "-")) for name in names),
                cell("valid", trial.valid),
                str(trial.epochs),
                cell("saved", trial.saved),
                cell("peak", trial.peak),
                "-" if trial.seconds is None else f"{trial.seconds:.2f}",
                trial.status,
            ]
        )
    errors = [f"trial {t.number} failed: {t.error}" for t in trials if t.status == "failed"]
    return "\n".join([align(rows, left=()), *errors])


def front_table(trials: Sequence[Trial], objectives: Sequence[str], metric: str) -> str:
    """Lay out the trials of a Pareto front, a row each."""
    rows = [["trial", *(metric if name == "valid" else name for name in objectives), "parameters"]]
    for trial in trials:
        values = [cell(name, getattr(trial, name)) for name in objectives]
        parameters = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
        rows.append([str(trial.number), *values, parameters])
    return align(rows, left=(0, len(objectives) + 1))


def cell(objective: str, value: float | None) -> str:
    """Return a value with its unit."""
    if value is None:
        return "-"
    if objective == "valid":
        return f"{value:.4f}"
    unit, size = _UNITS[objective]
    return f"{value / size:.2f} {unit}"


def plot_front(
    path: Path,
    trials: Sequence[Trial],
    front: Sequence[int],
    study: Mapping[str, Any],
) -> None:
    """Draw every trial by the first objective against each of the others, and the front.

    Args:
        path: PNG file.
        trials: Those with all objectives.
        front: Numbers of the trials on the front.
        study: `objectives`, `metric`, `metric_bigger`, and `model` and `dataset`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, *others = study["objectives"]
    labels = {"valid": f"{study['metric']} on validation", **_AXES}
    figure = Figure(figsize=(5.5 * len(others), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, other in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        for trial in trials:
            x, y = _scaled(trial, other), _scaled(trial, first)
            color = "C1" if trial.number in front else "0.6"
            axes.plot(x, y, "o", color=color, zorder=3)
            label = f" {trial.number}" + (" (default)" if trial.number == 0 else "")
            axes.annotate(label, (x, y), fontsize=8, va="bottom")
        chosen = [trial for trial in trials if trial.number in front]
        if len(others) == 1:
            corners = sorted((_scaled(trial, other), _scaled(trial, first)) for trial in chosen)
            axes.step(*zip(*corners, strict=True), where="post", color="C1", alpha=0.6)
        axes.set_xlabel(labels[other])
        axes.set_ylabel(labels[first])
        axes.grid(alpha=0.3)
        axes.margins(x=0.15)
    better = "up" if modes([first], study["metric_bigger"]) == ["max"] else "down"
    figure.suptitle(
        f"{study['model']} on {study['dataset']}: Pareto front (better: left and {better})",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)


def _scaled(trial: Trial, objective: str) -> float:
    return getattr(trial, objective) / _UNITS.get(objective, ("", 1))[1]
