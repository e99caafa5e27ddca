"""Rows of one matrix added to rows of another, or written there.

`scatter_add_` with an expanded index sums whole rows on all threads; `index_add_` uses one thread
and takes 2.1 ms instead of 0.4 for 20,000 rows of 64 floats.
"""

from __future__ import annotations

from torch import Tensor


def add_rows_(
    out: Tensor,  # (M, D)
    index: Tensor,  # (N,) rows of out, any integer type, repeated or not
    rows: Tensor,  # (N, D)
) -> Tensor:  # out
    """Add row i of `rows` to row index[i] of `out`, in place."""
    return out.scatter_add_(0, index.long()[:, None].expand_as(rows), rows)


def write_distinct_rows_(
    out: Tensor,  # (M, D), zeros
    numbers: Tensor,  # (N,) of `graph.distinct`: distinct rows of out, or -1
    rows: Tensor,  # (N, D)
    *,
    static_shapes: bool = False,
) -> Tensor:  # out
    """Write row i of `rows` to row numbers[i] of `out`; for -1, which static shapes have, add 0."""
    if static_shapes:
        return add_rows_(out, numbers.clamp(min=0), rows)
    return out.index_copy_(0, numbers.long(), rows)
