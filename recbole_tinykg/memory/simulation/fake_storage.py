"""Hollow tensors: ordinary tensors, but for a storage that has a size and no memory.

PyTorch makes a storage from any address. This one is of pages that are reserved and never filled;
who prints a hollow tensor after all, in a debugger, sees zeros. Operators on hollow tensors are not
run, but for views, which compute no numbers. A real tensor becomes hollow when its values stop
being known, as after a sum with a hollow one was written into it; its memory stays what it is.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage

_RESERVED_BYTES = 2**40
_without_memory: set[int] = set()  # storages of hollow tensors, those of other simulations too


class HollowTensors:
    """The set of tensors whose values are unknown."""

    def __init__(self) -> None:
        """Begin with none."""
        self._storages: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Forget the values of a tensor, dense or sparse, and of all others in its storage."""
        _note(values_of(tensor).untyped_storage(), self._storages)

    def __contains__(self, tensor: object) -> bool:
        """Whether the values of a tensor, or the indices of a sparse one, are unknown."""
        if not isinstance(tensor, Tensor):
            return False
        keys = [part.untyped_storage()._cdata for part in dense_parts(tensor)]
        return any(key in self._storages or key in _without_memory for key in keys)

    def like(self, shape_only: Tensor, device: torch.device) -> Tensor:
        """A new hollow tensor with the geometry of one on the device `meta`."""
        num_bytes = shape_only.untyped_storage().nbytes()
        storage: Any = torch._C._construct_storage_from_data_pointer(
            _reserved().ctypes.data, device, num_bytes
        )
        tensor = torch.empty(0, dtype=shape_only.dtype, device=device)
        geometry = shape_only.storage_offset(), shape_only.shape, shape_only.stride()
        _note(storage, _without_memory)
        return tensor.set_(storage, *geometry)


@functools.cache
def _reserved() -> np.ndarray:
    """Addresses without memory, for all hollow tensors alike; fewer where a limit forbids many."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    for num_bytes in (_RESERVED_BYTES, _RESERVED_BYTES >> 10, mmap.PAGESIZE):
        with contextlib.suppress(OSError):
            pages = mmap.mmap(-1, num_bytes, flags=flags, prot=mmap.PROT_READ)
            return np.frombuffer(pages, dtype=np.uint8)
    raise MemoryError("not even a page can be reserved")


def _note(storage: UntypedStorage, storages: set[int]) -> None:
    """Have a storage in a set as long as it lives."""
    if storage._cdata not in storages:
        storages.add(storage._cdata)
        weakref.finalize(storage, storages.discard, storage._cdata)


def values_of(tensor: Tensor) -> Tensor:
    """The dense tensor that holds a tensor's values."""
    if tensor.layout is torch.sparse_coo:
        return tensor._values()
    return tensor if tensor.layout is torch.strided else tensor.values()


def dense_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the dense tensors that a tensor consists of."""
    if tensor.layout is torch.sparse_coo:
        yield tensor._indices()
    elif tensor.layout is torch.sparse_csr:
        yield tensor.crow_indices()
        yield tensor.col_indices()
    elif tensor.layout is torch.sparse_csc:
        yield tensor.ccol_indices()
        yield tensor.row_indices()
    yield values_of(tensor)
