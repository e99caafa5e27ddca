"""What a `with` block does with a saved tensor once it is known what the tensor is needed for.

The same for both ways to know that: a dispatch mode (`context`) and a recording (`replay`). All
state belongs to one block.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from recbole_tinykg.saved_tensors.derivation import Sources
from recbole_tinykg.saved_tensors.needs import Need
from recbole_tinykg.saved_tensors.packed import Reference
from recbole_tinykg.saved_tensors.storage import PackedStorage, PackedTensor, Packing

_PACKED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INDEX_DTYPES = (torch.int64, torch.int32)

FUNCTION_APPLY = torch.autograd.Function.apply.__code__
"""The frame that calls the pack hook where a Python `autograd.Function` saves."""

count_nodes = getattr(torch.autograd, "_get_sequence_nr", itertools.count().__next__)
"""How many autograd nodes this thread has made. It is private to PyTorch: where it is missing, a
count that always changes makes every save doubtful, so that tensors are kept exactly."""


class Block:
    """The storages of a block: those that stay in memory anyway, and what others are packed as."""

    def __init__(self, resident: list[Tensor], packing: Packing) -> None:
        self.packing, self.outer = packing, packing.outer
        lazy = nn.parameter.is_lazy
        dense = [t for t in resident if t.layout is torch.strided and not lazy(t)]
        storages = [tensor.untyped_storage() for tensor in dense]
        self.resident = {s._cdata: StorageWeakRef(s) for s in storages}  # no number is reused
        self._storages: dict[Any, Callable[[], PackedStorage | None]] = {}  # weak references
        tables = [t for t in resident if t.requires_grad]
        self.sources = Sources(tables, packing.outer)
        self._task = torch._C._current_graph_task_id()  # -1, or the backward that opened the block

    def in_backward(self) -> bool:
        """Whether a backward runs that began in the block; checkpoint may open it in another."""
        return torch._C._current_graph_task_id() != self._task

    def may_be_codes(self, tensor: Tensor) -> bool:
        """Whether codes may stand for a tensor, depending on the operation that saves it."""
        if tensor.dtype not in _PACKED_DTYPES or tensor.layout is not torch.strided:
            return False
        storage = tensor.untyped_storage()
        return (
            storage._cdata not in self.resident
            and storage.nbytes() > self.packing.min_saved_bytes
            and type(tensor) in (Tensor, nn.Parameter)
            and not self.in_backward()
            and not tensor.is_neg()
            and not _is_parameter(tensor if tensor._base is None else tensor._base)
        )

    def refer(self, detached: Tensor) -> Reference:
        """Keep a tensor by reference."""
        reference = Reference(detached, self.outer)
        if detached.dtype in _INDEX_DTYPES:
            self.sources.note_index(count_nodes(), reference)
        return reference

    def pack(
        self, packed: PackedTensor, detached: Tensor, need: Need, *, anew: bool = False
    ) -> bool:
        """Pack a tensor's storage for a need, unless that has been done; `anew` in any case.

        Returns:
            Whether the storage had not been packed yet, or had changed since.
        """
        key = detached.untyped_storage()._cdata, detached.dtype
        shared = None if anew or key not in self._storages else self._storages[key]()
        is_new = shared is None or not shared.is_of(detached)
        if shared is None or is_new:
            shared = PackedStorage(detached)
            self._storages[key] = weakref.ref(shared)
        packed.storage, packed.need = shared, shared.pack(detached, need, self.packing)
        packed.geometry = detached.shape, detached.stride(), detached.storage_offset()
        return is_new

    def forget(self, storage: int) -> None:
        """Forget a storage that is about to change: through `.data` its version does not tell."""
        for dtype in _PACKED_DTYPES:
            self._storages.pop((storage, dtype), None)


def _is_parameter(tensor: Tensor) -> bool:
    return tensor.is_leaf and tensor.requires_grad
