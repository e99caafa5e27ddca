"""Bytes in a block of code, measured and never computed from a formula.

Two quantities, because a small one does not imply the other:

*Saved activations*, the bytes that autograd keeps from forward until backward. Every tensor that an
operation saves passes through PyTorch's saved-tensor hooks. Autograd then owns our wrapper of it
and we hold a weak reference, so at the end of forward only what is really kept is counted, storage
by storage: ten views of one storage cost one storage. What would be there without backward is left
out: parameters, the batch, and resident tensors, which are the buffers and every tensor that a
module holds as an attribute, sparse ones and those in containers too (graphs, neighbour tables).

*Peak*, the highest sum of bytes allocated above what was there at the start: of forward and
backward together, gradients and temporaries included. On CUDA the allocator keeps this number; on a
CPU the profiler reports every allocation and release, and the peak is the highest running sum.

Besides, the bytes that a model and its optimizer hold between steps. The same code measures stock
and Tiny models. Measuring changes no number, random state or gradient.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

_NOT_THE_MODEL = (  # code between a model and our hook
    str(Path(torch.__file__).parent),
    __file__,
    str(Path(__file__).parents[1] / "saved_tensors"),
)
_KINETO_ERRORS_ONLY = "6"  # by default kineto logs a line to stderr at every start


@dataclasses.dataclass(frozen=True)
class SavedTensor:
    """One storage that autograd keeps, described by the first tensor saved from it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_bytes: int  # of the whole storage: a view keeps all of it alive
    where: str  # "file.py:line function" that ran the operation


@dataclasses.dataclass
class SavedTensors:
    """The result of `saved_tensors`, one entry per storage; filled when its block ends."""

    tensors: list[SavedTensor] = dataclasses.field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Bytes of all storages together."""
        return sum(tensor.num_bytes for tensor in self.tensors)


@dataclasses.dataclass
class PeakBytes:
    """The result of `peak_bytes`; filled when its block ends."""

    num_bytes: int | None = None  # None: another profiler was running, or PyTorch has none


@contextmanager
def saved_tensors(
    model: nn.Module | None = None, inputs: Any = (), *, keep: bool = True
) -> Iterator[SavedTensors]:
    """Count the storages that autograd keeps alive when the block ends.

    Hold the loss until then: without it the graph, and all that it keeps, is gone before it is
    counted::

        with saved_tensors(model, batch) as saved:
            loss = model.calculate_loss(batch)
        print(saved.num_bytes)

    Args:
        model: Its parameters, buffers and tensor attributes, as they are when the block begins, are
            not counted.
        inputs: Tensors, or containers of tensors such as RecBole's `Interaction`, that are not
            counted either.
        keep: False counts without keeping anything: forward needs no more memory than without
            gradients, and no backward can follow.
    """
    resident = [*_module_tensors(model), *_tensors_in(inputs)]
    # Held until the end, so that no address is reused.
    storages = [storage for tensor in resident for storage in storages_of(tensor)]
    counted = {StorageWeakRef(storage) for storage in storages}
    seen: list[weakref.ref[_Packed]] = []

    def pack(tensor: Tensor) -> _Packed:
        packed = _Packed(tensor, keep)
        seen.append(weakref.ref(packed))
        return packed

    result = SavedTensors()
    with torch.autograd.graph.saved_tensors_hooks(pack, _Packed.unpack):
        yield result
    alive = [packed for reference in seen if (packed := reference()) is not None]
    for packed in alive:
        for storage, num_bytes in packed.storages.items():
            if storage not in counted:
                counted.add(storage)
                result.tensors.append(SavedTensor(*packed.described, num_bytes, packed.where))


@contextmanager
def peak_bytes(device: torch.device | str = "cpu") -> Iterator[PeakBytes]:
    """Measure the highest sum of bytes allocated on `device` above that at the block's start.

    On a CPU, releasing a tensor older than the block does not lower the sum; on CUDA it does.
    """
    device = torch.device(device)
    result = PeakBytes()
    if device.type == "cuda":
        yield from _cuda_peak(device, result)
    elif torch.autograd._profiler_enabled() or not torch.autograd.kineto_available():
        yield result
    else:
        yield from _cpu_peak(result)


def resident_bytes(model: nn.Module) -> dict[str, int]:
    """Return the bytes a model holds between steps: its parameters', and all other tensors'."""
    parameters = _total_bytes(model.parameters())
    return {
        "parameter_bytes": parameters,
        "graph_bytes": _total_bytes(_module_tensors(model)) - parameters,
    }


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimizer's state, such as Adam's moments; 0 before a first step."""
    return _total_bytes(_tensors_in(optimizer.state))


class _Packed:
    """What autograd owns in place of a saved tensor, so that we see when it lets go."""

    def __init__(self, tensor: Tensor, keep: bool) -> None:
        self.described = tuple(tensor.shape), tensor.dtype
        self.storages = {StorageWeakRef(s): s.nbytes() for s in storages_of(tensor)}
        self.where = _caller()
        self._tensor = tensor.detach() if keep else None  # an output must not hold its own graph

    def unpack(self) -> Tensor:
        """Hand the tensor back to autograd."""
        if self._tensor is None:
            raise RuntimeError("saved_tensors(keep=False) keeps nothing that backward could use")
        return self._tensor


def _cuda_peak(device: torch.device, result: PeakBytes) -> Iterator[PeakBytes]:
    _warm_up_matmul(device)
    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    yield result
    result.num_bytes = torch.cuda.max_memory_allocated(device) - start


def _warm_up_matmul(device: torch.device) -> None:
    """Multiply matrices once: cuBLAS takes tens of MB of workspaces at first, and keeps them.

    Backward runs in a thread of its own, in which the first kernel makes the GPU's context current;
    cuBLAS does not, and warns where there is none. So the square's derivative comes first.
    """
    with torch.enable_grad():
        x = torch.ones(1, 1, device=device, requires_grad=True)
        torch.nn.functional.linear(x, x, x[0]).square().sum().backward()


def _cpu_peak(result: PeakBytes) -> Iterator[PeakBytes]:
    profiler = torch.autograd.profiler.profile(use_kineto=True, profile_memory=True)
    # When it first starts, kineto reads its log level from the environment.
    chosen = "KINETO_LOG_LEVEL" in os.environ
    os.environ.setdefault("KINETO_LOG_LEVEL", _KINETO_ERRORS_ONLY)
    try:
        profiler.__enter__()
    finally:
        if not chosen:
            del os.environ["KINETO_LOG_LEVEL"]
    try:
        yield result
    finally:
        profiler.__exit__(None, None, None)
    assert profiler.kineto_results is not None
    events: list[Any] = profiler.kineto_results.events()
    cpu = torch.autograd.DeviceType.CPU
    memory = [e for e in events if e.name() == "[memory]" and e.device_type() == cpu]
    memory.sort(key=lambda event: event.start_ns())
    sizes = (event.nbytes() for event in memory)  # negative for a release
    result.num_bytes = max(itertools.accumulate(sizes, initial=0))


def _total_bytes(tensors: Iterable[Tensor]) -> int:
    storages = itertools.chain.from_iterable(map(storages_of, tensors))
    return sum({StorageWeakRef(storage): storage.nbytes() for storage in storages}.values())


def storages_of(tensor: Tensor) -> list[torch.UntypedStorage]:
    """Return the storages behind a tensor: those of a sparse one's indices, then its values'."""
    if tensor.layout is torch.sparse_coo:
        parts: tuple[Tensor, ...] = tensor._indices(), tensor._values()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = tensor.crow_indices(), tensor.col_indices(), tensor.values()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    else:
        parts = (tensor,)
    return [part.untyped_storage() for part in parts]


def _module_tensors(model: nn.Module | None) -> Iterator[Tensor]:
    """Yield parameters, buffers and every tensor held as an attribute of the model's modules."""
    for module in model.modules() if model is not None else ():
        yield from _tensors_in(vars(module))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers, data classes and RecBole's `Interaction`."""
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    else:
        interaction = getattr(value, "interaction", None)
        parts = interaction.values() if isinstance(interaction, Mapping) else ()
    for part in parts:
        yield from _tensors_in(part)


def _caller() -> str:
    """Name the innermost line outside PyTorch and our hooks: one of the model."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_NOT_THE_MODEL):
        frame = frame.f_back
    name = Path(frame.f_code.co_filename).name
    return f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
