"""Bytes of a training step: what is kept for backward, the transient peak, what is resident.

For each variant and phase (rs: recommendation, kg: knowledge graph, refresh: KGAT's attention):

* saved: the package's own count (`meter.saved_tensors`); of checkpointing and offload, whose
  tensors do not all pass through the meter's hooks, the allocator's;
* hooks: an independent count, a few lines below: bytes of the distinct storages that pass through
  PyTorch's saved-tensor hooks and are neither parameters, batch nor resident tensors;
* allocator: bytes alive after forward minus before. Of twins it must not exceed saved + outputs;
* peak: the most bytes allocated at once in forward and backward, above parameters, optimizer
  state, graph and batch: what is saved, temporaries and gradients;
* step_peak: the same with the optimizer's step, which may need more than they;
* resident: parameters, optimizer state, and all other tensors of the model, mostly the graph.

Bytes are exact: on a CPU, repeated runs print the same numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.suite.cases import Case, Models
from benchmarks.suite.variants import Variant
from recbole_tinykg.memory import meter

INDICES = (torch.int32, torch.int64)


def measure(case: Case, variants: list[Variant], device: dict[str, Any]) -> dict[str, Any]:
    """Every variant of a case: bytes by phase, resident bytes, and what failed."""
    rows: list[dict[str, Any]] = []
    resident, errors = {}, {}
    models = Models(case, device)
    for variant in variants:
        experiment = models.of(variant)
        try:
            with variant.applied(experiment.model):
                rows += measure_phases(case, variant, experiment)
        except Exception as error:  # an alternative that the stock model cannot take is a result
            errors[variant.key] = first_line(error)
        drop_leftovers(experiment.model)
        resident[variant.key] = {
            **meter.resident_bytes(experiment.model),
            "optimizer_bytes": meter.optimizer_bytes(experiment.trainer.optimizer),
        }
    return {"rows": rows, "resident": resident, "errors": errors}


def first_line(error: Exception) -> str:
    """Type and first line of an error, for a cell of a table."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def measure_phases(case: Case, variant: Variant, experiment: Any) -> list[dict[str, Any]]:
    """Return a row for each phase."""
    model, rows = experiment.model.train(), []
    for phase, (state, loss_name) in case.phases.items():
        if hasattr(model, loss_name):
            experiment.train_data.set_mode(state)
            batch = next(iter(experiment.train_data)).to(model.device)
            step = Step(model, experiment.trainer.optimizer, getattr(model, loss_name), batch)
            rows.append({"variant": variant.key, "phase": phase, **step.bytes(variant)})
    if hasattr(model, "update_attentive_A"):
        with torch.no_grad(), meter.peak_bytes(model.device) as peak:
            model.update_attentive_A()
        refresh = {"saved": 0, "peak": peak.num_bytes, "step_peak": peak.num_bytes}
        rows.append({"variant": variant.key, "phase": "refresh", **refresh})
    return rows


class Step:
    """A training step on one batch, to be measured in several ways."""

    def __init__(
        self, model: Any, optimizer: torch.optim.Optimizer, loss: Callable[[Any], Any], batch: Any
    ) -> None:
        """Of a model, by a loss."""
        self.model, self.optimizer, self.loss, self.batch = model, optimizer, loss, batch

    def bytes(self, variant: Variant) -> dict[str, int | None]:
        """All counts of the step."""
        if variant.owns_model:
            self.run()  # the optimizer's state, and whatever else a first step leaves behind
        self.optimizer.zero_grad()
        drop_leftovers(self.model)
        with meter.saved_tensors(self.model, self.batch) as saved:
            value = self.loss(self.batch)
        del value
        indices = sum(tensor.num_bytes for tensor in saved.tensors if tensor.dtype in INDICES)
        peaks = {"peak": self.count_peak(), "step_peak": self.count_peak(with_optimizer=True)}
        allocated = self.count_by_allocator()
        kept = allocated if variant.hidden_saves else saved.num_bytes
        return {
            "saved": kept,
            "without_indices": kept - indices,
            "hooks": self.count_by_hooks(),
            "allocator": allocated,
            **peaks,
        }

    def run(self, with_optimizer: bool = True) -> None:
        """Forward, backward, and the optimizer's step."""
        self.optimizer.zero_grad()
        total(self.loss(self.batch)).backward()
        if with_optimizer:
            self.optimizer.step()

    def count_peak(self, with_optimizer: bool = False) -> int | None:
        """Highest sum of bytes in the step above what was there before, gradients too."""
        self.optimizer.zero_grad()
        drop_leftovers(self.model)
        with meter.peak_bytes(self.model.device) as peak:
            self.run(with_optimizer)
        return peak.num_bytes

    def count_by_hooks(self) -> int:
        """Distinct storages that are saved and belong neither to the model nor to the batch."""
        drop_leftovers(self.model)
        resident = [*self.model.parameters(), *self.model.buffers()]
        resident += self.batch.interaction.values()
        for module in self.model.modules():
            resident += [v for v in vars(module).values() if isinstance(v, torch.Tensor)]
        known = {storage for tensor in resident for storage, _ in storages(tensor)}
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            found.update(storages(tensor))
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = self.loss(self.batch)
        count = sum(size for storage, size in found.items() if storage not in known)
        del value
        return count

    def count_by_allocator(self) -> int:
        """Bytes allocated minus bytes released between the start and the end of forward."""
        drop_leftovers(self.model)
        if self.model.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            value = self.loss(self.batch)
            count = torch.cuda.memory_allocated() - before
            del value
            return count
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            value = self.loss(self.batch)
        del value
        events = profiler.profiler.kineto_results.events()
        return sum(event.nbytes() for event in events if event.name() == "[memory]")


def drop_leftovers(model: torch.nn.Module) -> None:
    """RippleNet and MKR leave a step's activations on themselves until the next step."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            held = value if isinstance(value, list) else [value]
            if any(isinstance(t, torch.Tensor) and t.grad_fn is not None for t in held):
                delattr(module, name)
    gc.collect()


def total(losses: Any) -> torch.Tensor:
    """Return a loss, or the sum of several."""
    return sum(losses).sum() if isinstance(losses, tuple) else losses.sum()


def storages(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Address and bytes of the storages of a dense or sparse tensor."""
    parts = [tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor]
    return [(p.untyped_storage().data_ptr(), p.untyped_storage().nbytes()) for p in parts]
