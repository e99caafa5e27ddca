"""Gathered rows, and sums and concatenations of them, in place of a saved tensor.

What they are computed from is packed instead: references to tables and indices, and other rows.
Backward repeats the operations, with the same bits as a result. A large result costs about as much
for its memory as for its numbers, so the rows of a concatenation are gathered where they will be,
and a sum is added up in its first term.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload

from recbole_tinykg.saved_tensors.needs import base_name
from recbole_tinykg.saved_tensors.packed import OuterHooks, Reference


class Recomputed:
    """Rows that are recomputed from packed arguments: references and `RecomputedView`s; exact."""

    __slots__ = ("__weakref__", "_args", "_func", "_kwargs", "_rows")

    def __init__(self, func: OpOverload, args: list[Any], kwargs: Any) -> None:
        self._func, self._args, self._kwargs = func, args, kwargs
        self._rows: Reference | None = None

    def replace(self, rows: Tensor, outer: OuterHooks) -> None:
        """Keep the rows themselves from now on."""
        self._rows, self._args = Reference(rows, outer), []

    def unpack(self) -> Tensor:
        """Return the numbers of the storage of the rows; call this without gradients."""
        if self._rows is not None:
            return self._rows.unpack()
        name = base_name(self._func)
        if name == "cat" and (rows := self._concatenated()) is not None:
            return rows
        args = [_unpack(arg) for arg in self._args]
        if name in ("add", "sub") and self._may_reuse_first(*args):
            add = args[0].add_ if name == "add" else args[0].sub_
            return add(args[1], **self._kwargs)
        return self._func(*args, **self._kwargs)

    def _may_reuse_first(self, first: Any, second: Any) -> bool:
        """Whether the first term is new, nobody else's, and like the sum."""
        part = self._args[0]
        is_new = isinstance(part, RecomputedView) and part.rows._rows is None
        is_like = isinstance(second, Tensor) and second.shape == first.shape
        return is_new and is_like and second.dtype == first.dtype and first.is_contiguous()

    def _concatenated(self) -> Tensor | None:
        """Gather rows into their places in a concatenation; None if that is not all there is."""
        parts, dim = self._args[0], self._args[1] if len(self._args) > 1 else 0
        gathers = [_gather_of(part) for part in parts]
        if dim != 0 or self._kwargs or None in gathers:
            return None
        sources = [(table.unpack(), index.unpack()) for table, index in filter(None, gathers)]
        first = sources[0][0]
        kinds = {(table.dtype, table.shape[1:]) for table, _ in sources}
        if len(kinds) > 1 or any(index.dim() != 1 for _, index in sources):
            return None
        rows = first.new_empty(sum(len(index) for _, index in sources), *first.shape[1:])
        for place, (table, index) in zip(
            rows.split([len(index) for _, index in sources]), sources, strict=True
        ):
            torch.index_select(table, 0, index, out=place)
        return rows


class RecomputedView(NamedTuple):
    """A view of rows that will be recomputed."""

    rows: Recomputed
    geometry: tuple[Any, ...] | None = None  # None: the rows themselves


def _gather_of(part: Any) -> tuple[Reference, Reference] | None:
    """Return table and index, if a part of a concatenation is a lookup in a table."""
    if not isinstance(part, RecomputedView) or part.geometry is not None:
        return None
    rows = part.rows
    is_lookup = rows._rows is None and base_name(rows._func) == "embedding"
    return (rows._args[0], rows._args[1]) if is_lookup else None


def _unpack(arg: Any) -> Any:
    if isinstance(arg, Reference):
        return arg.unpack()
    if isinstance(arg, RecomputedView):
        rows = arg.rows.unpack()
        return rows if arg.geometry is None else rows.as_strided(*arg.geometry)
    return [_unpack(a) for a in arg] if isinstance(arg, list) else arg
