"""One `PackedStorage` per storage, one `PackedTensor` for each time that autograd saves from it.

A view, an expanded tensor and a transpose are each a size, strides and an offset in a storage, and
the storage is packed once. Codes of an expanded row are the codes of one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from recbole_tinykg.ops import reference
from recbole_tinykg.quantization import Quantizer
from recbole_tinykg.saved_tensors.needs import Need
from recbole_tinykg.saved_tensors.packed import Codes, OuterHooks, Packed, Reference, Signs

_SITES_AT_ONCE = 32
_SHORTEST_ROW = 32  # for shorter rows the 6 bytes of a row's minimum and step are too many
_LONGEST_ROW = reference.GROUP_COLUMNS
_SIGNS = (Need.SIGN, Need.SIGN_OR_NAN)
_DRAWS = (Need.VALUE, Need.SECOND)


@dataclass
class Packing:
    """How the storages of a block are packed."""

    quantizer: Quantizer
    stream: Tensor  # (2,) int64: the first site of the step
    outer: OuterHooks
    min_saved_bytes: int

    def __post_init__(self) -> None:
        self._sites: tuple[Tensor, ...] = ()
        self._site = 0

    def quantize(self, x: Tensor) -> Codes:
        """Quantize a matrix with the noise of the next site."""
        if self._site == len(self._sites):
            self._sites = self._first_sites(max(_SITES_AT_ONCE, 2 * self._site))
        stream = self._sites[self._site]
        self._site += 1
        stream = stream if stream.device == x.device else stream.to(x.device)
        return Codes(x, self.quantizer, stream, self.outer)

    def _first_sites(self, count: int) -> tuple[Tensor, ...]:
        """Return the streams of the first sites, made at once."""
        sites = torch.arange(count, device=self.stream.device)
        return torch.stack([self.stream[0].expand(count), self.stream[1] + sites], dim=1).unbind()

    def num_bytes(self, need: Need, num_rows: int, columns: int, dtype: torch.dtype) -> int:
        """Return the bytes of a matrix packed for one need.

        By the formulas that define codes: `ops` tells sizes only by making codes, and this decides
        whether to make them.
        """
        if need in _SIGNS:
            return num_rows * reference.packed_bytes(columns, 1)
        group = reference.compute_dtype(dtype).itemsize + reference.step_dtype(dtype).itemsize
        codes = reference.packed_bytes(columns, self.quantizer.bits)
        return num_rows * (codes + group * reference.num_groups(columns))


class PackedStorage:
    """What one version of a storage is packed as, however many operations save it."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage, self._version = StorageWeakRef(tensor.untyped_storage()), tensor._version
        self._columns, self._num_bytes = _row_length(tensor), 0
        self._parts: dict[Need, Packed] = {}
        self._exact: Reference | None = None

    def is_of(self, tensor: Tensor) -> bool:
        """Whether a tensor at the same address is still on this storage, in this version."""
        return not self._storage.expired() and self._version == tensor._version

    @property
    def is_exact(self) -> bool:
        """Whether the storage is kept as it is."""
        return self._exact is not None

    def pack(self, tensor: Tensor, need: Need, packing: Packing) -> Need:
        """Pack what is needed and not there yet; return the need to unpack it by."""
        if self._exact is not None:
            return Need.EXACT
        if need is not Need.EXACT:
            # A draw that is there serves where another would not be worth its bytes.
            draws = [part for part in self._parts if part in _DRAWS and need in _DRAWS]
            for served in (need, *draws):
                if served in self._parts or self._pack_part(tensor, served, packing):
                    return served
        self._exact = Reference(_flat(tensor), packing.outer)
        self._parts.clear()  # it serves earlier needs, too
        return Need.EXACT

    def _pack_part(self, tensor: Tensor, need: Need, packing: Packing) -> bool:
        """Pack a missing part; return False if that is not worth it."""
        num_rows = -(-_num_elements(tensor) // self._columns)
        num_bytes = packing.num_bytes(need, num_rows, self._columns, tensor.dtype)
        num_bytes += self._num_bytes
        saved_bytes = tensor.untyped_storage().nbytes() - num_bytes
        if saved_bytes < max(num_bytes, packing.min_saved_bytes):
            return False
        self._num_bytes = num_bytes
        flat = _flat(tensor)
        if flat.numel() % self._columns:  # copied only if its last row must be padded
            flat = torch.nn.functional.pad(flat, (0, -flat.numel() % self._columns))
        matrix = flat.view(-1, self._columns)  # (N, D)
        if need in _SIGNS:
            self._parts[need] = Signs(matrix, packing.outer, nan_is_positive=need is not Need.SIGN)
        else:
            self._parts[need] = packing.quantize(matrix)
        return True

    def unpack(self, need: Need) -> Tensor:
        """Return the numbers of the storage in their order, fit for the need."""
        return (self._parts[need] if self._exact is None else self._exact).unpack()


class PackedTensor:
    """What autograd owns in place of a saved tensor."""

    __slots__ = ("__weakref__", "check", "geometry", "need", "packed", "storage", "waiting")

    def __init__(self) -> None:
        self.waiting: Tensor | None = None  # the tensor itself, until it is known who saves it
        self.packed: Packed | None = None  # stands for its storage or, without geometry, for it
        self.storage: PackedStorage | None = None  # or its storage, shared with other tensors, and
        self.need = Need.NOTHING  # what to unpack that for
        self.check: Callable[[], None] | None = None  # of who reads codes
        self.geometry: tuple[Any, ...] | None = None  # size, strides and offset in the storage

    def unpack(self) -> Tensor:
        """Return the tensor, or an estimate of it.

        Raises:
            RuntimeError: A second derivative would read codes, or a tensor kept by reference has
                changed.
        """
        if self.waiting is not None:
            return self.waiting
        if self.storage is not None and not self.storage.is_exact:
            # A backward that builds a graph would differentiate codes as if they were exact.
            if torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled():
                raise RuntimeError(
                    "create_graph must be False for compressed_saves; got True: codes of the "
                    "activations cannot give second derivatives. Leave the block out, or use 32 "
                    "bits"
                )
            if self.check is not None:
                self.check()
        if torch.is_grad_enabled():  # entering `no_grad` costs more than asking
            with torch.no_grad():
                return self._unpack()
        return self._unpack()

    def _unpack(self) -> Tensor:
        if self.storage is not None:
            tensor = self.storage.unpack(self.need)
        else:
            assert self.packed is not None
            tensor = self.packed.unpack()
        if self.geometry is None:
            return tensor
        size, strides, offset = self.geometry
        if offset == 0 and tensor.shape == size and tensor.stride() == strides:
            return tensor
        return tensor.as_strided(size, strides, offset)


def _row_length(tensor: Tensor) -> int:
    """Return the number of columns of the matrix that a tensor's storage is quantized as.

    It has the tensor's own rows, if the storage consists of such rows; else 256 numbers a row.
    """
    strides = [s for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1 and s > 0]
    wider = sorted(s for s in strides if s > 1)
    length = wider[0] if wider else tensor.numel()
    fits = 1 in strides and _num_elements(tensor) % length == 0
    return length if fits and length >= _SHORTEST_ROW else _LONGEST_ROW


def _num_elements(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _flat(tensor: Tensor) -> Tensor:  # (count,)
    """Return the whole storage of a tensor."""
    return tensor.as_strided((_num_elements(tensor),), (1,), 0)
