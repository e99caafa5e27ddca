"""Seconds of a training step, of an epoch, of an evaluation, of a construction.

After a warm-up, rounds follow in which each variant trains one epoch with RecBole's trainer, so
that a drift of the machine's speed meets all alike; twins and the stock model then evaluate the
validation set and are constructed anew. KGAT's refresh of its attention, which variants of stock
share, is run for stock. A case may cut an epoch short: the seconds of its phases
are scaled to all batches. A step's seconds leave out the loader's. On CUDA the device has finished
when a pass ends, as in training, and steps are timed in passes of their own (`steps`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from benchmarks.suite.cases import KG, Case, Models
from benchmarks.suite.memory import first_line
from benchmarks.suite.steps import WARM_UP_STEPS, now, step_seconds
from benchmarks.suite.variants import Variant, replaced

WARM_UP_BATCHES = 2
PHASES = ("rs", "kg", "refresh")
EPOCH_PERIOD = 30  # a multiple of what stock models alternate their epochs by


def measure(case: Case, variants: list[Variant], device: dict[str, Any]) -> dict[str, Any]:
    """Every variant of a case: the rounds' seconds, and what failed."""
    models = Models(case, device)
    experiments = {variant.key: models.of(variant) for variant in variants}
    seconds: dict[str, list[dict[str, float]]] = {}
    errors: dict[str, str] = {}
    for variant in variants:
        try:
            warm_up = min(case.batches or WARM_UP_BATCHES, WARM_UP_BATCHES)
            train(case, variant, experiments[variant.key], 0, warm_up)
            if is_on_gpu(experiments[variant.key]):
                step_seconds(case, variant, experiments[variant.key], WARM_UP_STEPS)
            seconds[variant.key] = []
        except Exception as error:  # an alternative that the stock model cannot take is a result
            errors[variant.key] = first_line(error)
    steps: dict[str, list[int]] = {}
    for number in range(1, case.rounds + 1):
        for variant in (v for v in variants if v.key in seconds):
            experiment = experiments[variant.key]
            measured = train(case, variant, experiment, number, case.batches)
            steps = measured.pop("steps")
            if is_on_gpu(experiment):
                measured |= step_seconds(case, variant, experiment)
            if not variant.owns_model:
                measured["refresh"] = seconds["stock"][-1]["refresh"]
            measured["epoch"] = sum(measured[phase] for phase in PHASES)
            if variant.owns_model and evaluates(case, variant, number):
                measured |= around_training(case, experiment)
            seconds[variant.key].append(measured)
    return {"seconds": seconds, "steps": steps, "errors": errors}


@dataclass
class Passes:
    """A RecBole loader that may end early, and counts its batches and seconds by phase."""

    loader: Any
    num_batches: int | None
    steps: dict[str, list[int]] = field(default_factory=dict)  # taken, of how many
    seconds: dict[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loader's."""
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        """Yield the first batches."""
        phase = "kg" if self.loader.state is KG else "rs"
        whole = len(self.loader)
        taken = whole if self.num_batches is None else min(self.num_batches, whole)
        self.steps[phase], self.seconds[phase] = [taken, whole], 0.0
        start = perf_counter()
        batches = iter(self.loader)
        for _ in range(taken):
            batch = next(batches)
            self.seconds[phase] += perf_counter() - start
            yield batch
            start = perf_counter()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.loader)


def is_on_gpu(experiment: Any) -> bool:
    """Whether the model is on a GPU."""
    return experiment.model.device.type == "cuda"


def train(
    case: Case, variant: Variant, experiment: Any, number: int, batches: int | None
) -> dict[str, Any]:
    """Seconds by phase of an epoch, scaled to all batches, and of a step; how many were taken."""
    trainer, passes = experiment.trainer, Passes(experiment.train_data, batches)
    # On a GPU a trainer draws the batches of RecBole's loaders ahead, but not those of `Passes`.
    data = experiment.train_data if batches is None and is_on_gpu(experiment) else passes
    phases = dict.fromkeys(PHASES, 0.0)
    gc.collect()
    with variant.applied(experiment.model), without_refresh(variant, experiment.model):
        for epoch in case.epochs:
            trainer._train_epoch(data, number * EPOCH_PERIOD + epoch)
            for phase in phases:
                phases[phase] += trainer.epoch_seconds[-1][phase]
    result = {}
    for phase, (taken, whole) in passes.steps.items():
        result[f"step_{phase}"] = (phases[phase] - passes.seconds[phase]) / taken
        phases[phase] *= whole / taken
    return {**phases, **result, "steps": passes.steps}


def without_refresh(variant: Variant, model: Any) -> AbstractContextManager[None]:
    """KGAT's refresh is left out where it is stock's: variants of stock do not change it."""
    refreshes = [(model, "update_attentive_A")] if hasattr(model, "update_attentive_A") else []
    return replaced([] if variant.owns_model else refreshes, lambda refresh: lambda: None)


def evaluates(case: Case, variant: Variant, number: int) -> bool:
    """Whether a variant is evaluated in a round."""
    return not case.slow_evaluation or (number == 1 and variant.key in ("stock", "tiny2"))


def around_training(case: Case, experiment: Any) -> dict[str, float]:
    """Seconds of an evaluation, if there are data, and of the construction of another model."""
    device = experiment.model.device
    if experiment.valid_data is None:
        return {}
    start = now(device)
    experiment.trainer._valid_epoch(experiment.valid_data)
    evaluated = now(device)
    type(experiment.model)(experiment.config, experiment.train_data._dataset).to(device)
    return {"evaluation": evaluated - start, "construction": now(device) - evaluated}
