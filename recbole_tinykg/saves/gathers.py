"""Rows gathered from tensors that stay in memory: the gather is kept, and repeated in backward.

Stock autograd keeps the rows, a copy that no later change of the table reaches. A table that
changes in the block, as a queue of negatives does or `nn.Embedding(max_norm=1)`, is therefore read
once more before it changes, and the rows are kept. Nothing is done for rows that nobody saves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef

from recbole_tinykg.saves.kept import Outer, Reference


class Repeated:
    """Gathered rows, gathered again when they are needed; exact."""

    def __init__(self, func: OpOverload, args: tuple[Any, ...], kwargs: Any, outer: Outer) -> None:
        """Keep the arguments by reference; call this where `args` share their version counters."""
        self._func, self._kwargs = func, kwargs
        self._args = [_keep(arg, outer) for arg in args]
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


class _Gather(NamedTuple):
    """A gather that has run."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Any

    def reads(self, storage: int) -> bool:
        """Whether an argument is in that storage."""
        return any(storage_id(tensor) == storage for arg in self.args for tensor in _tensors(arg))


class Gathers:
    """The gathers of a block whose rows are alive or saved."""

    def __init__(self, outer: Outer) -> None:
        """Begin with none."""
        self._outer = outer
        self._alive: dict[int, tuple[StorageWeakRef, _Gather]] = {}  # by the rows' storage
        self._saved: weakref.WeakKeyDictionary[Repeated, _Gather] = weakref.WeakKeyDictionary()
        self._repeated: weakref.WeakValueDictionary[int, Repeated] = weakref.WeakValueDictionary()

    def note(self, func: OpOverload, args: tuple[Any, ...], kwargs: Any, rows: Tensor) -> None:
        """Remember a gather; rows that are gone are forgotten, and their indices let go."""
        self._drop([key for key, (storage, _) in self._alive.items() if storage.expired()])
        tensors = [rows, *(tensor for arg in args for tensor in _tensors(arg))]
        is_view = storage_id(args[0]) == storage_id(rows)
        if rows.is_contiguous() and not is_view and not any(t.is_inference() for t in tensors):
            storage = StorageWeakRef(rows.untyped_storage())
            self._alive[storage_id(rows)] = storage, _Gather(func, args, kwargs)

    def of(self, tensor: Tensor) -> Repeated | None:
        """What stands for a tensor that is being saved, if it is gathered rows or a view of them.

        Call this where the arguments of gathers share their version counters.
        """
        key = storage_id(tensor)
        storage, gather = self._alive.get(key, (None, None))
        if storage is None or gather is None or storage.expired():
            return None
        if (repeated := self._repeated.get(key)) is None:
            self._repeated[key] = repeated = Repeated(*gather, self._outer)
            self._saved[repeated] = gather
        return repeated

    def before_change(self, storage: int) -> None:
        """Rows in that storage will be no gathered ones; what was read from it is kept as rows."""
        changed = [key for key, (_, gather) in self._alive.items() if gather.reads(storage)]
        for repeated, gather in list(self._saved.items()):
            if gather.reads(storage):
                with torch.inference_mode(False):
                    rows = gather.func(*gather.args, **gather.kwargs)
                repeated.replace(rows, self._outer)
                del self._saved[repeated]
        self._drop([storage, *(key for key in changed if key not in self._repeated)])

    def _drop(self, keys: list[int]) -> None:
        for key in keys:
            self._alive.pop(key, None)
            self._repeated.pop(key, None)


def storage_id(value: Any) -> int:
    """A number for the storage of a dense tensor, unique while it is there; 0 for all else."""
    is_dense = isinstance(value, Tensor) and value.layout is torch.strided
    return value.untyped_storage()._cdata if is_dense else 0


def _tensors(arg: Any) -> list[Tensor]:
    args = arg if isinstance(arg, list) else [arg]
    return [arg for arg in args if isinstance(arg, Tensor)]


def _keep(arg: Any, outer: Outer) -> Any:
    if isinstance(arg, Tensor):
        return Reference(arg, outer)
    return [_keep(a, outer) for a in arg] if isinstance(arg, list) else arg


def _unkeep(arg: Any) -> Any:
    if isinstance(arg, Reference):
        return arg.tensor()
    return [_unkeep(a) for a in arg] if isinstance(arg, list) else arg
