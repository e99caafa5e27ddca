"""What `plan` prints: a column per model and number of bits."""

from __future__ import annotations

from recbole_tinykg.commands import report
from recbole_tinykg.commands.plan.memory import Memory, Plan
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
    predicted = [
        {
            **_sizes(model.predicted),
            f"available ({model.device})": format_bytes(model.room_bytes),
            "verdict": model.verdict,
        }
        for model in models
    ]
    tables = {"predicted": predicted}
    if any(model.measured for model in models):
        tables["measured"] = [_sizes(model.measured) for model in models]
        tables["deviation of the prediction"] = [
            {_LABELS[n]: f"{d:+.1%}" for n, d in model.deviations().items() if n in _LABELS}
            for model in models
        ]
    titles = [model.title for model in models]
    parts = [
        report.side_by_side([name, *titles], columns, _LABELS.values())
        for name, columns in tables.items()
    ]
    parts += [f"{m.title}\n{m.allocation.table()}" for m in models if m.allocation]
    parts += [f"{model.title}: {model.problem}" for model in models if model.problem]
    return "\n\n".join(parts)


def _sizes(memory: Memory | None) -> dict[str, str]:
    quantities = memory.quantities() if memory else {}
    return {_LABELS[n]: format_bytes(size) for n, size in quantities.items() if n in _LABELS}
