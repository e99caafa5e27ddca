"""Lookups in one embedding table that share a gradient map.

Autograd gives each lookup a gradient of the whole table, zero except in a few rows, and adds these
up: for five lookups, as in CFKG and CKE, five times n x D zeros are written and read, and two such
maps are alive at a time. Here the lookups of a step add their rows to one map.

    root: weight -> token        backward: returns the map
    rows: token, index -> rows   backward: adds rows to the map, gives the token no gradient

Autograd runs the root's backward after that of all lookups of its token. The sum is that of the
separate maps, in another order.

Saves: the indices, by reference. No noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward
from recbole_tinykg.functional.rows import add_rows_


class SharedTable:
    """A table for the lookups of one step.

    Args:
        weight: (n, D) a parameter.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._gradient = weight.detach(), _Gradient()
        self._token = _Root.apply(weight, self._gradient)

    def rows(self, index: Tensor) -> Tensor:  # (*index.shape, D)
        """Return rows of the table; differentiable once."""
        return _Rows.apply(self._token, self._weight, index, self._gradient)


def table_of_lookup(node: Any) -> Tensor | None:
    """Return the table whose rows a lookup's autograd node gave; None for any other node."""
    rows: Any = _Rows
    if type(node) is not rows._backward_cls:
        return None
    (root, _), *_ = node.next_functions
    table: Tensor = root.next_functions[0][0].variable
    return table


class _Gradient:
    """The gradient map of one table while a backward runs."""

    def __init__(self) -> None:
        self._map: Tensor | None = None
        self._task = -1  # the backward that made the map: one that failed leaves its map behind

    def add(self, index: Tensor, rows: Tensor, num_rows: int) -> None:
        task = torch._C._current_graph_task_id()
        if self._map is None or self._task != task:
            self._map, self._task = rows.new_zeros(num_rows, rows.shape[1]), task
        add_rows_(self._map, index, rows)

    def take(self) -> Tensor | None:
        gradient, self._map = self._map, None
        return gradient


class _Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gradient: _Gradient) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gradient = gradient
        return weight.new_empty(0)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return ctx.gradient.take(), None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, weight: Tensor, index: Tensor, gradient: _Gradient
    ) -> Tensor:
        ctx.save_for_backward(index)
        ctx.gradient, ctx.num_rows = gradient, len(weight)
        return torch.nn.functional.embedding(index, weight)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_rows: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        flat = grad_rows.reshape(-1, grad_rows.shape[-1])
        ctx.gradient.add(index.reshape(-1), flat, ctx.num_rows)
        return None, None, None, None
