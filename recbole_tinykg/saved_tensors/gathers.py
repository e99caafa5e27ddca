"""Rows gathered from tensors that stay in memory, their sums and concatenations: made again.

What stands for such rows is how they came about: the gather, or the operation and how each of its
arguments came about. Backward repeats that, exactly, at the cost of a gather or two, less than
packing takes. An expression of more than `_MOST_GATHERS` gathers is not repeated.

Stock autograd keeps the rows, a copy that no later change of the table reaches. A table that
changes in the block, as a queue of negatives does or `nn.Embedding(max_norm=1)`, is therefore read
once more before it changes, and the rows are kept. Nothing is done for rows that nobody saves.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef

from recbole_tinykg.saved_tensors.packed import Outer, Reference

_MOST_GATHERS = 8


class Repeated:
    """Rows that are made again when they are needed; exact."""

    def __init__(self, origin: _Origin, args: list[Any]) -> None:
        """Keep the arguments: `Repeated` or by reference, where they share version counters."""
        self._func, self._kwargs, self._args = origin.func, origin.kwargs, args
        self._rows: Reference | None = None
        self._last: Callable[[], Tensor | None] = lambda: None

    def replace(self, rows: Tensor, outer: Outer) -> None:
        """Keep the rows from now on."""
        self._rows, self._args = Reference(rows, outer), []

    def tensor(self) -> Tensor:
        """The numbers of the storage of the rows."""
        if self._rows is not None:
            return self._rows.tensor()
        if (tensor := self._last()) is None:
            with torch.no_grad():
                tensor = self._func(*map(_unkeep, self._args), **self._kwargs)
            self._last = weakref.ref(tensor)
        return tensor


class _Origin:
    """How rows came about: an operation that has run, its arguments tensors or `_Part`s."""

    def __init__(self, func: OpOverload, args: tuple[Any, ...], kwargs: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        parts = [leaf for leaf in _leaves(args) if isinstance(leaf, _Part)]
        self.is_stale = False  # something that it reads has changed
        self.num_gathers: int = sum(part.origin.num_gathers for part in parts) or 1

    def reads(self, storage: int) -> bool:
        """Whether anything that it is made of is in that storage."""
        return any(
            leaf.origin.reads(storage) if isinstance(leaf, _Part) else storage_id(leaf) == storage
            for leaf in _leaves(self.args)
        )

    def run(self) -> Tensor:
        """The rows."""
        return self.func(*(_map(_Part.resolve, arg) for arg in self.args), **self.kwargs)


class _Part(NamedTuple):
    """A view of rows that have an origin."""

    origin: _Origin
    geometry: tuple[Any, ...]  # size, strides and offset

    @staticmethod
    def resolve(leaf: Any) -> Any:
        """The view, or whatever is no part."""
        return leaf.origin.run().as_strided(*leaf.geometry) if isinstance(leaf, _Part) else leaf


class _KeptPart(NamedTuple):
    """A view of rows that stand to be made again."""

    rows: Repeated
    geometry: tuple[Any, ...]


class Gathers:
    """The origins of what is alive or saved in a block."""

    def __init__(self, outer: Outer) -> None:
        """Begin with none."""
        self._outer = outer
        self._alive: dict[int, tuple[StorageWeakRef, _Origin]] = {}  # by the rows' storage
        self._read: set[int] = set()  # storages that origins have been seen to read
        self._saved: weakref.WeakKeyDictionary[Repeated, _Origin] = weakref.WeakKeyDictionary()
        self._repeated: weakref.WeakValueDictionary[_Origin, Repeated] = (
            weakref.WeakValueDictionary()
        )

    def note(self, func: OpOverload, args: tuple[Any, ...], kwargs: Any, rows: Tensor) -> None:
        """Remember a gather; rows that are gone are forgotten, and their indices let go."""
        self._drop([key for key, (storage, _) in self._alive.items() if storage.expired()])
        tensors = [rows, *(leaf for leaf in _leaves(args) if isinstance(leaf, Tensor))]
        is_view = any(storage_id(tensor) == storage_id(rows) for tensor in tensors[1:])
        if rows.is_contiguous() and not is_view and not any(t.is_inference() for t in tensors):
            storage = StorageWeakRef(rows.untyped_storage())
            self._alive[storage_id(rows)] = storage, _Origin(func, args, kwargs)
            self._read.update(map(storage_id, tensors[1:]))

    def note_derived(
        self,
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: Any,
        result: Tensor,
        resident: Container[int],
    ) -> None:
        """Remember an operation on gathered rows, if all its tensors are such rows or resident."""
        if not self._alive:
            return
        args = tuple(_map(functools.partial(self._part, resident=resident), arg) for arg in args)
        parts = [leaf for leaf in _leaves(args) if isinstance(leaf, _Part)]
        if parts and not any(leaf is _Unknown for leaf in _leaves(args)):
            if sum(part.origin.num_gathers for part in parts) <= _MOST_GATHERS:
                self.note(func, args, kwargs, result)

    def _part(self, leaf: Any, resident: Container[int]) -> Any:
        if not isinstance(leaf, Tensor) or storage_id(leaf) in resident:
            return leaf
        origin = self._origin_of(leaf)
        geometry = leaf.shape, leaf.stride(), leaf.storage_offset()
        return _Unknown if origin is None or origin.is_stale else _Part(origin, geometry)

    def _origin_of(self, tensor: Tensor) -> _Origin | None:
        storage, origin = self._alive.get(storage_id(tensor), (None, None))
        return None if storage is None or storage.expired() else origin

    def of(self, tensor: Tensor) -> Repeated | None:
        """What stands for a tensor that is being saved, if it is such rows or a view of them.

        Call this where the arguments of gathers share their version counters.
        """
        origin = self._origin_of(tensor)
        if origin is None or (origin.is_stale and origin not in self._repeated):
            return None
        return self._repeat(origin)

    def _repeat(self, origin: _Origin) -> Repeated:
        if (repeated := self._repeated.get(origin)) is None:
            args = [_map(self._keep, arg) for arg in origin.args]
            self._repeated[origin] = repeated = Repeated(origin, args)
            self._saved[repeated] = origin
        return repeated

    def _keep(self, leaf: Any) -> Any:
        if isinstance(leaf, _Part):
            return _KeptPart(self._repeat(leaf.origin), leaf.geometry)
        return Reference(leaf, self._outer) if isinstance(leaf, Tensor) else leaf

    def before_change(self, storage: int) -> None:
        """Rows in that storage have no origin now; what was read from it is kept as rows."""
        self._drop([storage])
        if storage not in self._read:
            return
        for repeated, origin in list(self._saved.items()):
            if origin.reads(storage):
                with torch.inference_mode(False):
                    rows = origin.run()
                repeated.replace(rows, self._outer)
                del self._saved[repeated]
        for _, origin in self._alive.values():
            origin.is_stale |= origin.reads(storage)

    def _drop(self, keys: list[int]) -> None:
        for key in keys:
            self._alive.pop(key, None)


_Unknown = object()  # in place of a tensor that cannot be made again


def storage_id(value: Any) -> int:
    """A number for the storage of a dense tensor, unique while it is there; 0 for all else."""
    is_dense = isinstance(value, Tensor) and value.layout is torch.strided
    return value.untyped_storage()._cdata if is_dense else 0


def _map(function: Callable[[Any], Any], arg: Any) -> Any:
    """Apply a function to an argument, or to the elements of a list."""
    return [function(leaf) for leaf in arg] if type(arg) in (list, tuple) else function(arg)


def _leaves(args: Iterable[Any]) -> Iterator[Any]:
    for arg in args:
        yield from arg if type(arg) in (list, tuple) else (arg,)


def _unkeep(arg: Any) -> Any:
    if isinstance(arg, Reference):
        return arg.tensor()
    if isinstance(arg, _KeptPart):
        return arg.rows.tensor().as_strided(*arg.geometry)
    return [_unkeep(a) for a in arg] if isinstance(arg, list) else arg
