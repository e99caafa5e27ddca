"""Rows gathered from tensors that stay in memory, their sums and concatenations: recomputed.

Such rows are packed as their origin: the gather, or an operation and the origins of its arguments.
Backward repeats it, exactly, at the cost of a gather or two, which is less than packing takes. An
expression of more than `_MOST_GATHERS` gathers is not recomputed.

Autograd itself would save the rows, a copy, so the table could change later. If a table changes in
the block, as a queue of negatives or `nn.Embedding(max_norm=1)` does, the rows that were saved are
therefore gathered just before, and kept. Rows that are not saved cost nothing.
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

from recbole_tinykg.saved_tensors.packed import OuterHooks, Reference
from recbole_tinykg.saved_tensors.recomputed import Recomputed, RecomputedView

_MOST_GATHERS = 8


class Origin:
    """How rows were computed: an operation that has run, and its arguments: tensors or `View`s."""

    def __init__(self, func: OpOverload, args: tuple[Any, ...], kwargs: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        views = [leaf for leaf in leaves_of(args) if isinstance(leaf, View)]
        self.is_stale = False  # something that it reads has changed
        self.num_gathers: int = sum(view.origin.num_gathers for view in views) or 1

    def reads(self, storage: int) -> bool:
        """Whether anything that it is computed from is in that storage."""
        return any(
            leaf.origin.reads(storage) if isinstance(leaf, View) else storage_id(leaf) == storage
            for leaf in leaves_of(self.args)
        )

    def run(self) -> Tensor:
        """Compute the rows."""
        return self.func(*(map_leaves(View.resolve, arg) for arg in self.args), **self.kwargs)


class View(NamedTuple):
    """A view of rows that have an origin."""

    origin: Origin
    geometry: tuple[Any, ...]  # size, strides and offset

    @staticmethod
    def resolve(leaf: Any) -> Any:
        """Compute a view; return anything else as it is."""
        return leaf.origin.run().as_strided(*leaf.geometry) if isinstance(leaf, View) else leaf


class Gathers:
    """The origins of all rows that are alive or saved in a block."""

    def __init__(self, outer: OuterHooks) -> None:
        self._outer = outer
        self._alive: dict[int, tuple[StorageWeakRef, Origin]] = {}  # by the rows' storage
        self._read: set[int] = set()  # storages that origins have been seen to read
        self._saved: weakref.WeakKeyDictionary[Recomputed, Origin] = weakref.WeakKeyDictionary()
        self._recomputed: weakref.WeakValueDictionary[Origin, Recomputed] = (
            weakref.WeakValueDictionary()
        )

    def note(self, func: OpOverload, args: tuple[Any, ...], kwargs: Any, rows: Tensor) -> None:
        """Remember a gather; forget rows that are gone, which releases their indices."""
        for key in [key for key, (storage, _) in self._alive.items() if storage.expired()]:
            del self._alive[key]
        tensors = [rows, *(leaf for leaf in leaves_of(args) if isinstance(leaf, Tensor))]
        is_view = any(storage_id(tensor) == storage_id(rows) for tensor in tensors[1:])
        if rows.is_contiguous() and not is_view and not any(t.is_inference() for t in tensors):
            storage = StorageWeakRef(rows.untyped_storage())
            self._alive[storage_id(rows)] = storage, Origin(func, args, kwargs)
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
        args = tuple(
            map_leaves(functools.partial(self._view_of, resident=resident), arg) for arg in args
        )
        views = [leaf for leaf in leaves_of(args) if isinstance(leaf, View)]
        if views and not any(leaf is _UNKNOWN for leaf in leaves_of(args)):
            if sum(view.origin.num_gathers for view in views) <= _MOST_GATHERS:
                self.note(func, args, kwargs, result)

    def _view_of(self, leaf: Any, resident: Container[int]) -> Any:
        if not isinstance(leaf, Tensor) or storage_id(leaf) in resident:
            return leaf
        origin = self.origin_of(leaf)
        if origin is None or origin.is_stale:
            return _UNKNOWN
        return View(origin, (leaf.shape, leaf.stride(), leaf.storage_offset()))

    def origin_of(self, tensor: Tensor) -> Origin | None:
        """Return how the storage of a tensor was computed, if it was from gathered rows."""
        storage, origin = self._alive.get(storage_id(tensor), (None, None))
        return None if storage is None or storage.expired() else origin

    def pack(self, tensor: Tensor) -> Recomputed | None:
        """Pack a tensor that is being saved, if it is such rows or a view of them.

        Call this where the arguments of gathers share their version counters.
        """
        origin = self.origin_of(tensor)
        if origin is None or (origin.is_stale and origin not in self._recomputed):
            return None
        return self._recompute_later(origin)

    def _recompute_later(self, origin: Origin) -> Recomputed:
        if (recomputed := self._recomputed.get(origin)) is None:
            args = [map_leaves(self._pack_leaf, arg) for arg in origin.args]
            self._recomputed[origin] = recomputed = Recomputed(origin.func, args, origin.kwargs)
            self._saved[recomputed] = origin
        return recomputed

    def _pack_leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, View):
            return RecomputedView(self._recompute_later(leaf.origin), leaf.geometry)
        return Reference(leaf, self._outer) if isinstance(leaf, Tensor) else leaf

    def before_change(self, storage: int) -> bool:
        """Forget the origin of rows in a storage; keep saved rows that were read from it.

        Returns:
            Whether any rows were read from it.
        """
        self._alive.pop(storage, None)
        if storage not in self._read:
            return False
        for recomputed, origin in list(self._saved.items()):
            if origin.reads(storage):
                with torch.inference_mode(False):
                    rows = origin.run()
                recomputed.replace(rows, self._outer)
                del self._saved[recomputed]
        for _, origin in self._alive.values():
            origin.is_stale |= origin.reads(storage)
        return True


_UNKNOWN = object()  # in place of a tensor that cannot be recomputed


def storage_id(value: Any) -> int:
    """Return a number for a dense tensor's storage, unique while it is alive; 0 for all else."""
    is_dense = isinstance(value, Tensor) and value.layout is torch.strided
    return value.untyped_storage()._cdata if is_dense else 0


def map_leaves(function: Callable[[Any], Any], arg: Any) -> Any:
    """Apply a function to an argument, or to the elements of a list."""
    return [function(leaf) for leaf in arg] if type(arg) in (list, tuple) else function(arg)


def leaves_of(args: Iterable[Any]) -> Iterator[Any]:
    """Yield the arguments of an operation, of lists their elements."""
    for arg in args:
        yield from arg if type(arg) in (list, tuple) else (arg,)
