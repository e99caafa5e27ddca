r"""Rows times the matrix of their relation, without a matrix per row: :math:`y_i = x_i W_{r_i}`.

CKE, like TransR, multiplies each row by its own copy of :math:`W_r`: B x D x D' floats. Here rows
come sorted by relation, and `relation_rows` multiplies all rows of a relation by one.

Saves: the rows and the matrices; with static shapes also the relations, which the embedding of the
relations saves too, and backward divides the rows once more. No noise of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.relation_rows import relation_rows


@without_autocast
def relation_matmul(
    x: Tensor,  # (k N, D)
    relation: Tensor,  # (N,) sorted, of k rows each
    weight: Tensor,  # (n_relations, D, D')
    *,
    static_shapes: bool = False,
) -> Tensor:  # (k N, D')
    """Return the product of each row and the matrix of its relation."""
    return _RelationMatmul.apply(x, relation, weight, static_shapes)


class _RelationMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, relation: Tensor, weight: Tensor, static_shapes: bool
    ) -> Tensor:
        rows = relation_rows(relation, weight, len(x), static_shapes=static_shapes)
        ctx.segments = None if static_shapes else rows
        ctx.save_for_backward(x, weight, *([relation] if static_shapes else []))
        return rows.products(x, weight)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        x, weight, *relation = ctx.saved_tensors
        rows = ctx.segments or relation_rows(relation[0], weight, len(x), static_shapes=True)
        grad_weight = torch.zeros_like(weight)
        rows.add_outer_products_(grad_weight, x, grad_out)
        return rows.products(grad_out, weight.transpose(1, 2)), None, grad_weight, None
