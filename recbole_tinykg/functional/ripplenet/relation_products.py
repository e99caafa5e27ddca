r"""Products of entities with relation matrices, one product per relation (RippleNet).

For a distinct pair of a head h and a relation r,

.. math:: k = R_r h, \qquad q = R_r^\top h.

RippleNet addresses memories with k and compares q with the tail of a fact, :math:`h^\top R t`.
RecBole copies the d x d matrix for every memory slot of every row, 97 % of all that its step keeps.
Here pairs are sorted by relation, and each relation's heads meet its matrix in one product.

This is the arithmetic of `loss`, forward and backward; nothing is saved, and there is no noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.graph.ripple_memories import Segment


def relation_products(
    heads: Tensor,  # (P, d)
    matrices: Tensor,  # (n_relations, d * d)
    segments: list[Segment],
    *,
    transposed: bool = False,
) -> Tensor:  # (P, d)
    """Return the key R h of each pair; the query R^T h if `transposed`."""
    out = torch.empty_like(heads)
    for relation, pairs in segments:
        matrix = _matrix(matrices, relation, heads.shape[1])
        torch.mm(heads[pairs], matrix if transposed else matrix.t(), out=out[pairs])
    return out


def relation_products_backward(
    grad_matrices: Tensor,  # (n_relations, d * d), added to
    grad_keys: Tensor,  # (P, d)
    grad_queries: Tensor,  # (P, d)
    heads: Tensor,  # (P, d)
    matrices: Tensor,  # (n_relations, d * d)
    segments: list[Segment],
) -> Tensor:
    """Return the gradient (P, d) of the heads; add to that of the matrices."""
    dim = heads.shape[1]
    grad_heads = torch.empty_like(heads)
    for relation, pairs in segments:
        matrix, grad_matrix = (_matrix(m, relation, dim) for m in (matrices, grad_matrices))
        key, query, head = grad_keys[pairs], grad_queries[pairs], heads[pairs]
        torch.mm(key, matrix, out=grad_heads[pairs])
        grad_heads[pairs].addmm_(query, matrix.t())
        grad_matrix.addmm_(key.t(), head)
        grad_matrix.addmm_(head.t(), query)
    return grad_heads


def _matrix(matrices: Tensor, relation: int, dim: int) -> Tensor:
    return matrices[relation].view(dim, dim)
