r"""Products of entities with relation matrices (RippleNet).

For a distinct pair of a head h and a relation r,

.. math:: k = R_r h, \qquad q = R_r^\top h.

RippleNet addresses memories with k and compares q with the tail of a fact, :math:`h^\top R t`.
RecBole copies the d x d matrix for every memory slot of every row, 97 % of all that its step keeps.
Here pairs are sorted by relation, and `relation_rows` multiplies all heads of a relation by one.

This is the arithmetic of `loss`, forward and backward; nothing is saved, and there is no noise.
"""

from __future__ import annotations

from torch import Tensor

from recbole_tinykg.functional.relation_rows import Segments, Tiles


def relation_products(
    heads: Tensor,  # (P, d)
    matrices: Tensor,  # (n_relations, d * d)
    pairs: Segments | Tiles,
    *,
    transposed: bool = False,
) -> Tensor:  # (P, d)
    """Return the key R h of each pair; the query R^T h if `transposed`."""
    weight = _square(matrices, heads.shape[1])
    return pairs.products(heads, weight if transposed else weight.transpose(1, 2))


def relation_products_backward(
    grad_matrices: Tensor,  # (n_relations, d * d), added to
    grad_keys: Tensor,  # (P, d)
    grad_queries: Tensor,  # (P, d)
    heads: Tensor,  # (P, d)
    matrices: Tensor,  # (n_relations, d * d)
    pairs: Segments | Tiles,
) -> Tensor:
    """Return the gradient (P, d) of the heads; add to that of the matrices."""
    weight, grad_weight = (_square(m, heads.shape[1]) for m in (matrices, grad_matrices))
    grad_heads = pairs.products(grad_keys, weight)
    pairs.add_products_(grad_heads, grad_queries, weight.transpose(1, 2))
    pairs.add_outer_products_(grad_weight, grad_keys, heads)
    pairs.add_outer_products_(grad_weight, heads, grad_queries)
    return grad_heads


def _square(matrices: Tensor, dim: int) -> Tensor:
    return matrices.view(-1, dim, dim)
