"""The `with` block: hooks that pack what is saved, a mode that tells them for which operation.

A pack hook is not told which operation saves. A dispatch mode sees every operation, but only below
autograd: after an operation has saved its arguments, before it saves its outputs::

    pack(a), pack(b)   mode(mul)   pack(y), pack(y)   mode(mm)
    `- mul's arguments             |        `- an argument of mm
                                   `- an output of the last operation, if its node saves outputs

So a tensor waits, as it is, for the next operation. An operation makes its autograd node, saves
its arguments, and runs: if a node was made since the tensor was saved, or the operation has none,
something else saved the tensor (an operation in place on a view, a C++ `autograd::Function`), and
it is kept exactly. A Python `autograd.Function` saves without an operation and is recognised by the
frame that calls the hook.

All state belongs to one block, and hooks and mode to the thread that opened it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, ValuesView
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_tinykg.quantization import NoiseStreams, Quantizer
from recbole_tinykg.quantization.quantizer import UNCOMPRESSED, Rounding
from recbole_tinykg.saved_tensors.gathers import Gathers, storage_id
from recbole_tinykg.saved_tensors.needs import (
    Need,
    is_cheap,
    is_gather,
    need_of_argument,
    need_of_output,
    written_tensors,
)
from recbole_tinykg.saved_tensors.packed import OuterHooks, Reference
from recbole_tinykg.saved_tensors.storage import PackedStorage, PackedTensor, Packing

_PACKED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_APPLY = torch.autograd.Function.apply.__code__
# How many autograd nodes this thread has made. It is private to PyTorch: where it is missing, a
# count that always changes makes every save doubtful, so that tensors are kept exactly.
_count_nodes = getattr(torch.autograd, "_get_sequence_nr", itertools.count().__next__)


@contextmanager
def compressed_saves(
    model: nn.Module | None = None,
    bits: int = 2,
    *,
    rounding: Rounding = "stochastic",
    streams: NoiseStreams | None = None,
    resident: Iterable[Tensor] = (),
    min_saved_bytes: int = 4096,
) -> Iterator[None]:
    """Pack what the block's forward saves for backward as codes.

    Kept by reference, never copied, are parameters, buffers and other tensors of `model`, other
    leaves that require gradients, integers, booleans, sparse tensors, small tensors, and whatever a
    derivative needs exactly. A view is unpacked as a view of its unpacked storage.

    Args:
        model: Parameters, buffers and tensor attributes of its modules, as they are when the block
            begins, are kept by reference, and rows gathered from them are gathered again.
        bits: 1, 2, 4, 8, or 32 for a block that does nothing.
        rounding: "stochastic", or "nearest" with less noise and a bias.
        streams: Noise; each block takes its next step. None: the same noise in every block.
        resident: Tensors that stay in memory anyway, such as the batch: kept by reference, too.
        min_saved_bytes: Codes must save at least this much of a storage, and half of it.

    Raises:
        ConfigurationError: `bits` or `rounding` is none of the values above.
    """
    quantizer = Quantizer(bits, rounding)
    if bits == UNCOMPRESSED:
        yield
        return
    stream = (NoiseStreams(0, 1) if streams is None else streams).advance()[0]
    tensors = [*resident, *_tensors_of(model)]
    mode = _PackingMode(tensors, Packing(quantizer, stream, OuterHooks.current(), min_saved_bytes))
    with torch.autograd.graph.saved_tensors_hooks(mode.pack, PackedTensor.unpack), mode:
        try:
            yield
        finally:
            mode.pack_waiting()


class _PackingMode(TorchDispatchMode):
    """The pack hook of one `with` block, and the mode that tells it the operations."""

    def __init__(self, resident: list[Tensor], packing: Packing) -> None:
        super().__init__()
        self._packing = packing
        lazy = nn.parameter.is_lazy
        dense = [t for t in resident if t.layout is torch.strided and not lazy(t)]
        storages = [tensor.untyped_storage() for tensor in dense]
        self._resident = {s._cdata: StorageWeakRef(s) for s in storages}  # no number is reused
        self._storages: WeakValueDictionary[Any, PackedStorage] = WeakValueDictionary()
        self._gathers = Gathers(packing.outer)
        self._waiting: list[tuple[Tensor, Need, int, PackedTensor]] = []
        self._task = torch._C._current_graph_task_id()  # -1, or the backward that opened the block
        self._last_func: OpOverload | None = None
        self._last_outputs: set[int] = set()  # storages that it may still save

    def pack(self, tensor: Tensor) -> PackedTensor:
        """Return what autograd owns in place of a tensor that is being saved: the pack hook."""
        packed = PackedTensor()
        with torch._C._DisableTorchDispatch():
            detached = tensor.detach()  # an output must not hold its own graph
            if not self._can_wait(tensor):
                packed.packed = Reference(detached, self._packing.outer)
                return packed
        packed.waiting = detached
        if sys._getframe(1).f_code is _APPLY:
            with _autograd_keys():
                self._pack(packed, Need.EXACT)
        else:
            need = self._need_of_output(tensor)  # asking a view for its node may make one
            self._waiting.append((tensor, need, _count_nodes(), packed))
        return packed

    def pack_waiting(self, func: OpOverload | None = None, args: tuple[Any, ...] = ()) -> None:
        """Pack the tensors that wait, now that everything that can have saved them is known."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        has_node = torch.is_grad_enabled() and any(
            isinstance(arg, Tensor) and arg.requires_grad for arg in args
        )
        num_nodes = _count_nodes() if has_node else None
        with _autograd_keys():
            for tensor, need, num_nodes_then, packed in waiting:
                if need is Need.NOTHING:
                    is_saver = num_nodes == num_nodes_then
                    need = need_of_argument(func, args, tensor) if is_saver else Need.EXACT
                self._pack(packed, need)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation unchanged, and note what it tells about saved tensors."""
        kwargs = kwargs or {}
        if self._in_backward():
            return func(*args, **kwargs)
        self.pack_waiting(func, args)
        for tensor in written_tensors(func, args, kwargs):
            self._before_change(tensor)
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple | list) else (result,)
        self._last_func, self._last_outputs = func, {storage_id(out) for out in outputs}
        if is_gather(func) and storage_id(args[0]) in self._resident:
            self._gathers.note(func, args, kwargs, result)
        elif is_cheap(func):
            self._gathers.note_derived(func, args, kwargs, result, self._resident)
        return result

    def _in_backward(self) -> bool:
        """Whether a backward runs that began in the block; checkpoint may open it in another."""
        return torch._C._current_graph_task_id() != self._task

    def _can_wait(self, tensor: Tensor) -> bool:
        """Whether codes may stand for a tensor, depending on the operation that saves it."""
        return (
            not self._in_backward()
            and tensor.dtype in _PACKED_DTYPES
            and tensor.layout is torch.strided
            and type(tensor) in (Tensor, nn.Parameter)
            and not tensor.is_neg()
            and tensor.untyped_storage()._cdata not in self._resident
            and not _is_parameter(tensor if tensor._base is None else tensor._base)
            and tensor.untyped_storage().nbytes() > self._packing.min_saved_bytes
        )

    def _need_of_output(self, tensor: Tensor) -> Need:
        """Return what the last operation needs of its output, once; NOTHING for arguments."""
        key = storage_id(tensor)
        if self._last_func is None or key not in self._last_outputs or tensor.grad_fn is None:
            return Need.NOTHING
        need = need_of_output(self._last_func, tensor.grad_fn)
        if need is not Need.EXACT:
            self._last_outputs.discard(key)
        return need

    def _pack(self, packed: PackedTensor, need: Need) -> None:
        """Pack a tensor that waited; call this in `_autograd_keys`."""
        tensor, packed.waiting = packed.waiting, None
        assert tensor is not None
        packed.geometry = tensor.shape, tensor.stride(), tensor.storage_offset()
        packed.packed = self._gathers.pack(tensor)
        if packed.packed is None:
            key = storage_id(tensor), tensor.dtype
            storage = self._storages.get(key)
            if storage is None or not storage.is_of(tensor):
                self._storages[key] = storage = PackedStorage(tensor)
            packed.storage, packed.need = storage, storage.pack(tensor, need, self._packing)

    def _before_change(self, tensor: Tensor) -> None:
        """Forget a storage that is about to change: through `.data` its version does not tell."""
        key = storage_id(tensor)
        with _autograd_keys():
            self._gathers.before_change(key)
        for dtype in _PACKED_DTYPES:
            self._storages.pop((key, dtype), None)


@contextmanager
def _autograd_keys() -> Iterator[None]:
    """Work as above autograd: below, `detach` returns tensors that miss changes in place."""
    key = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(key.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(key.ADInplaceOrView, False),
        torch.no_grad(),
    ):
        yield


def _tensors_of(model: nn.Module | None) -> Iterator[Tensor]:
    """Yield the tensors that modules hold, also as elements of a list, a tuple or a dictionary.

    It does not look deeper: RippleNet holds 5,661 for ml-100k, which would take 0.3 s a step.
    """
    if model is None:
        return
    yield from model.parameters()
    yield from model.buffers()
    for value in itertools.chain.from_iterable(vars(m).values() for m in model.modules()):
        held = value.values() if isinstance(value, dict) else value
        parts = held if isinstance(held, list | tuple | ValuesView) else (held,)
        if isinstance(next(iter(parts), None), Tensor):
            yield from (part for part in parts if isinstance(part, Tensor))


def _is_parameter(tensor: Tensor) -> bool:
    return tensor.is_leaf and tensor.requires_grad
