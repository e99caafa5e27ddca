"""What `plan` prints: a column per model and number of bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from recbole_tinykg.commands import report
from recbole_tinykg.commands.plan.memory import Plan, PlannedModel
from recbole_tinykg.memory.byte_sizes import format_bytes
from recbole_tinykg.trainer.phases import PHASES

_LABELS = {
    **{
        f"{phase} {quantity}": f"{name} step: {label}"
        for phase, name in PHASES.items()
        for quantity, label in (("saved", "saved activations"), ("peak", "peak"))
    },
    "refresh peak": "refresh of the attention: peak",
    **{name.removesuffix("_bytes"): label for name, label in report.RESIDENT.items()},
    "needed": "needed (resident + highest peak)",
}


def text_of(plan: Plan) -> str:
    """Lay out predicted and, if there are, measured bytes and deviations; then problems."""
    models = plan.models
    parts = [_table("predicted", models, _predicted, with_verdict=True)]
    if any(model.measured for model in models):
        parts.append(_table("measured", models, _measured))
        parts.append(_table("deviation of the prediction", models, _deviations))
    parts += [f"{m.title}\n{m.allocation.table()}" for m in models if m.allocation]
    parts += [f"{model.title}: {model.problem}" for model in models if model.problem]
    return "\n\n".join(parts)


def _table(
    title: str,
    models: list[PlannedModel],
    cells_of: Callable[[PlannedModel], Mapping[str, str]],
    with_verdict: bool = False,
) -> str:
    columns = [dict(cells_of(model)) for model in models]
    if with_verdict:
        for column, model in zip(columns, models, strict=True):
            column[f"available ({model.device})"] = format_bytes(model.room_bytes)
            column["verdict"] = model.verdict
    names = [*_LABELS, *(name for column in columns for name in column)]
    rows = [
        [_LABELS.get(name, name), *(column.get(name, "-") for column in columns)]
        for name in dict.fromkeys(names)
        if any(name in column for column in columns)
    ]
    return report.align([[title, *(model.title for model in models)], *rows])


def _predicted(model: PlannedModel) -> dict[str, str]:
    return _sizes(model.predicted.quantities() if model.predicted else {})


def _measured(model: PlannedModel) -> dict[str, str]:
    return _sizes(model.measured.quantities() if model.measured else {})


def _sizes(quantities: Mapping[str, int]) -> dict[str, str]:
    return {name: format_bytes(quantities[name]) for name in _LABELS if name in quantities}


def _deviations(model: PlannedModel) -> dict[str, str]:
    return {n: f"{d:+.1%}" for n, d in model.deviations().items() if n in _LABELS}
