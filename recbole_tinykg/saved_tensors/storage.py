"""One record per storage, and one `Saved` for every time that autograd saves a tensor of it.

A view, an expanded tensor, a transpose: each is a size, strides and an offset in a storage, and the
storage is packed once. Codes of an expanded row are the codes of one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from recbole_tinykg.ops import reference
from recbole_tinykg.quantization import Quantizer
from recbole_tinykg.saved_tensors.needs import Need
from recbole_tinykg.saved_tensors.packed import Codes, Kept, Outer, Reference, Signs

_SHORTEST_ROW = 32  # with shorter rows the 6 bytes of a row's minimum and step weigh too much
_LONGEST_ROW = 256  # a group of the quantizer
_SIGNS = (Need.SIGN, Need.SIGN_OR_NAN)
_DRAWS = (Need.VALUE, Need.SECOND)


@dataclass
class Packing:
    """How the storages of a block are packed."""

    quantizer: Quantizer
    stream: Tensor  # (2,) int64: the first site of the step
    outer: Outer
    min_saved_bytes: int

    def __post_init__(self) -> None:
        """Start at the first site."""
        self._site, self._unit = 0, self.stream.new_tensor([0, 1])

    def codes(self, x: Tensor) -> Codes:
        """Codes of a matrix, with noise of the next site."""
        stream = torch.add(self.stream, self._unit, alpha=self._site).to(x.device)
        self._site += 1
        return Codes(x, self.quantizer, stream, self.outer)

    def num_bytes(self, need: Need, num_rows: int, columns: int, dtype: torch.dtype) -> int:
        """Bytes that a matrix takes, packed for one need."""
        if need in _SIGNS:
            return num_rows * reference.packed_bytes(columns, 1)
        group = reference.compute_dtype(dtype).itemsize + reference.step_dtype(dtype).itemsize
        codes = reference.packed_bytes(columns, self.quantizer.bits)
        return num_rows * (codes + group * reference.num_groups(columns))


class Record:
    """What is kept of one storage in one version, however many operations save it."""

    def __init__(self, tensor: Tensor) -> None:
        """Begin with nothing kept."""
        self._storage, self._version = StorageWeakRef(tensor.untyped_storage()), tensor._version
        self._columns, self._num_bytes = _row_length(tensor), 0
        self._parts: dict[Need, Kept] = {}
        self._exact: Reference | None = None

    def is_of(self, tensor: Tensor) -> bool:
        """Whether this is of the tensor's storage, known to have the same address, unchanged."""
        return not self._storage.expired() and self._version == tensor._version

    @property
    def is_exact(self) -> bool:
        """Whether the storage is kept as it is."""
        return self._exact is not None

    def keep(self, tensor: Tensor, need: Need, packing: Packing) -> Need:
        """Keep what is needed and not there yet; return what to ask for."""
        if self._exact is not None:
            return Need.EXACT
        if need is not Need.EXACT:
            for served in (need, *self._other_draws(need)):
                if served in self._parts or self._pack(tensor, served, packing):
                    return served
        self._exact = Reference(_flat(tensor), packing.outer)
        self._parts.clear()  # earlier needs are served by it, too
        return Need.EXACT

    def _other_draws(self, need: Need) -> list[Need]:
        """The draw that is there, where another one would not be worth its bytes."""
        return [part for part in self._parts if part in _DRAWS and need in _DRAWS]

    def _pack(self, tensor: Tensor, need: Need, packing: Packing) -> bool:
        """Pack a part that is missing; False if that would not be worth it."""
        num_rows = -(-_num_elements(tensor) // self._columns)
        num_bytes = packing.num_bytes(need, num_rows, self._columns, tensor.dtype)
        num_bytes += self._num_bytes
        saved_bytes = tensor.untyped_storage().nbytes() - num_bytes
        if saved_bytes < max(num_bytes, packing.min_saved_bytes):
            return False
        matrix, self._num_bytes = _matrix_of(tensor, self._columns), num_bytes
        if need in _SIGNS:
            self._parts[need] = Signs(matrix, packing.outer, nan_is_positive=need is not Need.SIGN)
        else:
            self._parts[need] = packing.codes(matrix)
        return True

    def tensor(self, need: Need) -> Tensor:
        """The numbers of the storage in their order, fit for the need."""
        return (self._parts[need] if self._exact is None else self._exact).tensor()


class Saved:
    """What autograd owns in place of a saved tensor."""

    def __init__(self) -> None:
        """Begin undecided."""
        self.waiting: Tensor | None = None  # the tensor itself, until it is known who saves it
        self.kept: Kept | None = None  # what stands for its storage or, without geometry, for it
        self.record: Record | None = None  # or what is kept of its storage, and
        self.need = Need.NOTHING  # what is read of that
        self.geometry: tuple[Any, ...] | None = None  # size, strides and offset in the storage

    def unpack(self) -> Tensor:
        """The tensor, or an estimate of it.

        Raises:
            RuntimeError: A second derivative of what is kept as codes is wanted, or a tensor kept
                by reference has changed.
        """
        if self.waiting is not None:
            return self.waiting
        if self.record is not None and not self.record.is_exact:
            _refuse_second_derivatives()
        with torch.no_grad():
            if self.record is not None:
                tensor = self.record.tensor(self.need)
            else:
                assert self.kept is not None
                tensor = self.kept.tensor()
            return tensor if self.geometry is None else tensor.as_strided(*self.geometry)


def _refuse_second_derivatives() -> None:
    """Autograd gives an unpacked tensor its history back: with the exact one they are right."""
    if torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph must be False for compressed_saves; got True: codes of the activations "
            "cannot give second derivatives. Leave the block out, or use 32 bits"
        )


def _row_length(tensor: Tensor) -> int:
    """Columns D of the matrix as which the storage of a tensor is quantized.

    The tensor's own rows, if the storage consists of such rows; else 256 numbers after another.
    """
    strides = [s for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n > 1 and s > 0]
    wider = sorted(s for s in strides if s > 1)
    length = wider[0] if wider else tensor.numel()
    fits = 1 in strides and _num_elements(tensor) % length == 0
    return length if fits and length >= _SHORTEST_ROW else _LONGEST_ROW


def _num_elements(tensor: Tensor) -> int:
    """How many numbers the storage of a tensor holds."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _flat(tensor: Tensor) -> Tensor:  # (count,)
    """The whole storage of a tensor."""
    return tensor.as_strided((_num_elements(tensor),), (1,), 0)


def _matrix_of(tensor: Tensor, columns: int) -> Tensor:  # (N, D)
    """The whole storage of a tensor as a matrix, copied only if its last row must be filled."""
    flat = _flat(tensor)
    if flat.numel() % columns:
        flat = torch.nn.functional.pad(flat, (0, -flat.numel() % columns))
    return flat.view(-1, columns)
