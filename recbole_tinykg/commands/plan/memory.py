"""The numbers of a plan, predicted or measured, and what follows from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from recbole_tinykg.memory.byte_sizes import format_bytes
from recbole_tinykg.quantization.budget import Allocation

MARGIN = 0.1
"""Share of the needed bytes that a verdict wants free on top: a prediction may be so far off."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step, as `meter` defines them."""

    saved_bytes: int  # kept by autograd from forward to backward
    peak_bytes: int  # the most allocated at once, on top of what was there before the step


@dataclass(frozen=True)
class Memory:
    """Bytes of a training."""

    parameter_bytes: int
    optimizer_bytes: int  # after the first step of each phase
    graph_bytes: int  # all other tensors that the model holds
    phases: dict[str, StepMemory]  # "rs": recommendation, "kg": knowledge graph
    refresh_peak_bytes: int = 0  # of KGAT's refresh of its attention between epochs

    @property
    def resident_bytes(self) -> int:
        """Bytes that stay between steps."""
        return self.parameter_bytes + self.optimizer_bytes + self.graph_bytes

    @property
    def needed_bytes(self) -> int:
        """Bytes that a training takes: the resident ones and the highest peak.

        Gradients count to a step, but the last ones, at most as large as the parameters, are still
        there when KGAT refreshes its attention.
        """
        refresh = self.refresh_peak_bytes and self.refresh_peak_bytes + self.parameter_bytes
        return self.resident_bytes + max(refresh, *(s.peak_bytes for s in self.phases.values()))

    def quantities(self) -> dict[str, int]:
        """Return every number by its name, such as `rs peak`."""
        steps = {
            f"{phase} {name}": getattr(step, f"{name}_bytes")
            for phase, step in self.phases.items()
            for name in ("saved", "peak")
        }
        own = ("parameter", "optimizer", "graph", "resident", "needed")
        refresh = {"refresh peak": self.refresh_peak_bytes} if self.refresh_peak_bytes else {}
        return {**{name: getattr(self, f"{name}_bytes") for name in own}, **steps, **refresh}


@dataclass(frozen=True)
class PlannedModel:
    """A stock model, or a twin at a number of bits or under a budget."""

    model: str
    bits: int | None  # None: a stock model, or bits chosen under a budget
    device: str
    room_bytes: int  # free on the device for parameters, optimizer, graph and steps
    predicted: Memory | None  # None: its step cannot be simulated
    problem: str = ""  # why a number is missing
    measured: Memory | None = None
    allocation: Allocation | None = None  # bits chosen under a budget

    @property
    def title(self) -> str:
        """Name and bits, or budget."""
        if self.allocation is not None:
            return f"{self.model} {format_bytes(self.allocation.budget)}"
        return self.model if self.bits is None else f"{self.model} {self.bits} bit"

    @property
    def verdict(self) -> str:
        """Whether it fits: `fits`, `tight` (within 10 %), `does not fit` or `unknown`."""
        memory = self.measured or self.predicted
        if memory is None:
            return "unknown"
        if memory.needed_bytes > self.room_bytes:
            return "does not fit"
        enough = memory.needed_bytes * (1 + MARGIN) <= self.room_bytes
        return "fits" if enough else "tight"

    def deviations(self) -> dict[str, float]:
        """Return predicted / measured - 1 of each quantity; 0 where both are 0."""
        if self.predicted is None or self.measured is None:
            return {}
        of_prediction, real = self.predicted.quantities(), self.measured.quantities()
        return {
            name: _ratio(of_prediction[name], value) - 1
            for name, value in real.items()
            if name in of_prediction
        }

    def with_measured(self, memory: Memory | None, problem: str) -> Self:
        """Return the same with measured numbers, or with the reason why there are none."""
        problems = "; ".join(filter(None, (self.problem, problem)))
        return dataclasses.replace(self, measured=memory, problem=problems)


@dataclass(frozen=True)
class Plan:
    """Planned models, side by side."""

    dataset: str
    models: list[PlannedModel]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain containers."""
        return {"dataset": self.dataset, "models": [_row(model) for model in self.models]}


def _row(model: PlannedModel) -> dict[str, Any]:
    allocation = model.allocation
    own = dataclasses.asdict(dataclasses.replace(model, allocation=None))
    own |= {"verdict": model.verdict, "deviations": model.deviations()}
    if allocation is not None:
        own["allocation"] = {
            "budget": allocation.budget,
            "map_bits": allocation.bits,
            "saved_bytes": allocation.saved_bytes,
            "relative_variance": allocation.relative_variance,
        }
    return own


def _ratio(a: int, b: int) -> float:
    return 1.0 if a == b else a / b if b else float(2**53)
