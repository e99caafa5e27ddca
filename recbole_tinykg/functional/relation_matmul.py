r"""Rows times the matrix of their relation, without a matrix per row: :math:`y_i = x_i W_{r_i}`.

CKE, like TransR, multiplies each row by its own copy of :math:`W_r`: B x D x D' floats. Here rows
come sorted by relation, and all rows of a relation meet its matrix in one product.

Saves: the rows and the matrices. No noise of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast


@without_autocast
def relation_matmul(
    x: Tensor,  # (N, D) sorted by relation
    segments: Sequence[int],  # rows per relation
    weight: Tensor,  # (n_relations, D, D')
) -> Tensor:  # (N, D')
    """Return the product of each row and the matrix of its relation."""
    return _RelationMatmul.apply(x, segments, weight)


class _RelationMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, segments: Sequence[int], weight: Tensor) -> Tensor:
        ctx.segments = segments
        ctx.save_for_backward(x, weight)
        out = x.new_empty(len(x), weight.shape[2])
        for r, rows in relation_spans(segments):
            torch.mm(x[rows], weight[r], out=out[rows])
        return out

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        for r, rows in relation_spans(ctx.segments):
            torch.mm(grad_out[rows], weight[r].t(), out=grad_x[rows])
            torch.mm(x[rows].t(), grad_out[rows], out=grad_weight[r])
        return grad_x, None, grad_weight


def relation_spans(segments: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield each relation that occurs, and its range of rows."""
    start = 0
    for relation, count in enumerate(segments):
        if count:
            yield relation, slice(start, start + count)
        start += count
