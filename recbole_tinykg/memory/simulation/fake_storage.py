"""Tensors whose values are unknown; new ones lie on a fake storage: a size without memory.

PyTorch makes a storage from any address. A fake one has the address of pages that are reserved and
never filled: printing such a tensor, say in a debugger, shows zeros. Of the operators on unknown
tensors only views are run, which compute no numbers. A real tensor becomes unknown when its values
stop being known, for example when an unknown tensor is added to it in place; it keeps its memory.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage

from recbole_tinykg.memory.meter import storages_of

_RESERVED_BYTES = 2**40
_fake_storages: set[int] = set()  # of all simulations


class UnknownTensors:
    """The set of tensors whose values are unknown."""

    def __init__(self) -> None:
        self._storages: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Add a tensor, dense or sparse, and all others on its storage."""
        _add_while_alive(storages_of(tensor)[-1], self._storages)

    def __contains__(self, tensor: object) -> bool:
        """Whether the values of a tensor, or the indices of a sparse one, are unknown."""
        if not isinstance(tensor, Tensor):
            return False
        keys = [storage._cdata for storage in storages_of(tensor)]
        return any(key in self._storages or key in _fake_storages for key in keys)

    def like(self, shape_only: Tensor, device: torch.device) -> Tensor:
        """Make an unknown tensor on a fake storage, with the geometry of one on `meta`."""
        num_bytes = shape_only.untyped_storage().nbytes()
        storage: Any = torch._C._construct_storage_from_data_pointer(
            _reserved().ctypes.data, device, num_bytes
        )
        tensor = torch.empty(0, dtype=shape_only.dtype, device=device)
        geometry = shape_only.storage_offset(), shape_only.shape, shape_only.stride()
        _add_while_alive(storage, _fake_storages)
        return tensor.set_(storage, *geometry)


@functools.cache
def _reserved() -> np.ndarray:
    """Reserve addresses without memory for all fake storages; fewer where a limit forbids many."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    for num_bytes in (_RESERVED_BYTES, _RESERVED_BYTES >> 10, mmap.PAGESIZE):
        with contextlib.suppress(OSError):
            pages = mmap.mmap(-1, num_bytes, flags=flags, prot=mmap.PROT_READ)
            return np.frombuffer(pages, dtype=np.uint8)
    raise MemoryError("not even a page can be reserved")


def _add_while_alive(storage: UntypedStorage, storages: set[int]) -> None:
    """Keep a storage in a set as long as it is alive."""
    if storage._cdata not in storages:
        storages.add(storage._cdata)
        weakref.finalize(storage, storages.discard, storage._cdata)
