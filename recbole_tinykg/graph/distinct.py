r"""The distinct numbers of a batch, such as its users, and where each row finds its own.

    distinct([7, 2, 7], below=9)                       numbers [2, 7]          places [1, 0, 1]
    distinct([7, 2, 7], below=9, static_shapes=True)   numbers [2, 7, -1]      places [1, 0, 1]

How many there are is known only when they have been counted. On a GPU that is a wait in the middle
of a step, and a shape that differs from batch to batch, so that no CUDA graph can replay the step.
With `static_shapes` the result has a place for as many as there could be, :math:`\min(B, below)`,
and -1 in those that are left. Nothing is sorted: numbers that occur are marked, and a running sum
over the marks is their order.

A row of -1 takes part in a step without an effect: `table_rows` reads it as row 0 of a table, no
row of the batch refers to it, so its gradient is 0, and `functional.rows.add_rows_` adds 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Distinct(NamedTuple):
    """The distinct numbers among B, and the place of each of the B among them."""

    numbers: Tensor  # (C,) int64, ascending; then -1
    places: Tensor  # (B,) int64


def distinct(
    index: Tensor,  # (B,) int64, 0 to below - 1
    below: int,
    *,
    static_shapes: bool = False,
) -> Distinct:
    """Return the distinct numbers of `index`; with `static_shapes` without waiting for them."""
    if not static_shapes:
        return Distinct(*torch.unique(index, return_inverse=True))
    occurs = torch.zeros(below, dtype=torch.int32, device=index.device).index_fill_(0, index, 1)
    places = occurs.cumsum(0).sub_(1).index_select(0, index)
    numbers = torch.full((min(len(index), below),), -1, dtype=index.dtype, device=index.device)
    return Distinct(numbers.scatter_(0, places, index), places)


def table_rows(
    table: Tensor,  # (N, D)
    numbers: Tensor,  # (C,) rows of the table, or -1
) -> Tensor:  # (C, D)
    """Return rows of a table; row 0 for -1."""
    return table.index_select(0, numbers.clamp(min=0))
