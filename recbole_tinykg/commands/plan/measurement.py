"""Measured memory: one real step of each phase, in a process of its own so that peaks are honest.

The process runs this module with a request on standard input; its last line is the answer::

    {"model": ..., "dataset": ..., "parameters": {...}, "map_bits": {...}} -> take_steps(...)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from subprocess import PIPE
from typing import Any

from torch import Tensor

from recbole_tinykg.commands import child
from recbole_tinykg.commands.plan.memory import Memory, PlannedModel, StepMemory
from recbole_tinykg.commands.plan.steps import FirstSteps, OneBatch, first_steps
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.memory.meter import peak_bytes
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer import TinyTrainer
from recbole_tinykg.trainer.phases import PHASES


def measure(
    planned: PlannedModel, dataset: str, given: Mapping[str, Any]
) -> tuple[Memory | None, str]:
    """Run a process that takes one real step of each phase.

    Args:
        planned: Model and bits.
        dataset: Name of the data set.
        given: Parameters.

    Returns:
        The memory and nothing, or None and what went wrong.
    """
    own = {} if planned.bits is None else {"compress_bits": planned.bits}
    request = {
        "model": planned.model,
        "dataset": dataset,
        "parameters": {**given, **own, "state": "ERROR", "show_progress": False},
        "map_bits": planned.allocation.bits if planned.allocation else {},
    }
    try:
        text = json.dumps(request)
    except TypeError as error:
        raise ConfigurationError(
            f"config_dict must hold plain values when steps are measured; {error}"
        ) from error
    command = [sys.executable, "-m", __name__]
    with child.started(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        output, errors = process.communicate(text)
    if process.returncode == 0:
        return _read_memory(json.loads(output.splitlines()[-1])), ""
    reason = child.why_failed(process.returncode, errors)
    return None, f"{planned.title} could not be measured: {reason}"


def take_steps(
    model: str, dataset: str, parameters: Mapping[str, Any], map_bits: Mapping[str, int]
) -> dict[str, Any]:
    """Take one real step of each phase; return `trainer.memory()` and `refresh_peak_bytes`."""
    experiment = prepare(model, dataset, config_dict=parameters)
    if map_bits:
        experiment.model.choose_bits(map_bits)
    trainer = first_steps(_MeasuredSteps, experiment.config, experiment.model)
    trainer.take(experiment.train_data)
    return {**trainer.memory(), "refresh_peak_bytes": trainer.refresh_peak_bytes}


class _MeasuredSteps(FirstSteps):
    """Takes the first step of each phase, measured as in training."""

    refresh_peak_bytes: int | None = 0

    def take_step(self, phase: str, batches: OneBatch, loss_func: LossFunction) -> None:
        """Take a step as training does, with its meter."""
        for module in self.model.modules():
            for name, value in list(vars(module).items()):
                held = value if isinstance(value, list) else [value]
                if any(isinstance(v, Tensor) and v.grad_fn is not None for v in held):
                    delattr(module, name)  # a result it keeps: the profiler would see it freed
        TinyTrainer._train_epoch(self, batches, 0, loss_func)

    def take_refresh(self, refresh: Callable[[], None]) -> None:
        with peak_bytes(self.device) as peak:
            refresh()
        self.refresh_peak_bytes = peak.num_bytes


def _read_memory(answer: Mapping[str, Any]) -> Memory:
    steps = {
        phase: StepMemory(answer[phase]["saved_activation_bytes"], answer[phase]["peak_bytes"])
        for phase in PHASES
        if phase in answer
    }
    names = ("parameter_bytes", "optimizer_bytes", "graph_bytes", "refresh_peak_bytes")
    return Memory(**{name: answer[name] for name in names}, phases=steps)


if __name__ == "__main__":
    print("\n" + json.dumps(take_steps(**json.load(sys.stdin))))
