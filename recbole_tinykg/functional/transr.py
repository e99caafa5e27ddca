r"""The TransR loss of a batch, without a relation matrix per triple (KGAT, equations 1-2).

For a triple (h, r, t) and a corrupted tail t', with :math:`W_r` the relation's projection,

.. math:: \mathrm{softplus}(\|W_r h + r - W_r t\|^2 - \|W_r h + r - W_r t'\|^2)

RecBole multiplies each row by its own copy of :math:`W_r`: B x D x D' floats, saved for backward.
Here triples are sorted by relation, and `relation_rows` multiplies all rows of a relation by one.

Saves: the triples (the caller's tensors) and the parameters, by reference: 0 bytes. Backward
projects again, which costs less than saving the projections. No noise: the gradient is exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.relation_rows import Segments, Tiles, relation_rows
from recbole_tinykg.functional.rows import add_rows_

SOFTPLUS_THRESHOLD = 20.0
"""Above it `torch.nn.functional.softplus` is the identity, with slope 1."""


class _Projected(NamedTuple):
    """A batch sorted by relation; three entities per triple: head, tail, corrupted tail."""

    relation: Tensor  # (B,) sorted
    entity: Tensor  # (3 B,)
    rows: Tensor  # (3 B, D)
    division: Segments | Tiles  # of the rows among relations
    projected: Tensor  # (B, 3, D')
    translation: Tensor  # (B, D')


@without_autocast
def transr_loss(
    entities: Tensor,  # (n_entities, D)
    relations: Tensor,  # (n_relations, D')
    projections: Tensor,  # (n_relations, D * D')
    # (B,) each: head, relation, tail, corrupted tail
    triples: tuple[Tensor, Tensor, Tensor, Tensor],
    reg_weight: float,
    *,
    static_shapes: bool = False,
) -> Tensor:
    """Return the TransR loss plus `reg_weight` times RecBole's `EmbLoss` of the projections."""
    parameters = entities, relations, projections
    return _TransRLoss.apply(reg_weight, static_shapes, *triples, *parameters)


class _TransRLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reg_weight: float, static_shapes: bool, *tensors: Tensor) -> Tensor:
        ctx.reg_weight, ctx.static_shapes = reg_weight, static_shapes
        ctx.save_for_backward(*tensors)
        batch = _project(static_shapes, *tensors)
        difference = _squared_norms(batch)[0]
        norms = _norms(batch)
        return F.softplus(difference).mean() + reg_weight * norms.sum() / len(difference)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        *triples, entities, relations, projections = ctx.saved_tensors
        batch = _project(ctx.static_shapes, *ctx.saved_tensors)
        grad_projected, grad_translation = _batch_gradient(batch, ctx.reg_weight, grad_loss)
        grad_projected = grad_projected.view(len(batch.rows), -1)
        grad_projections = torch.zeros_like(projections)
        matrices, grad_matrices = (_matrices(p, entities) for p in (projections, grad_projections))
        batch.division.add_outer_products_(grad_matrices, batch.rows, grad_projected)
        grad_rows = batch.division.products(grad_projected, matrices.transpose(1, 2))
        return (
            *(None,) * (2 + len(triples)),
            add_rows_(torch.zeros_like(entities), batch.entity, grad_rows),
            add_rows_(torch.zeros_like(relations), batch.relation, grad_translation),
            grad_projections,
        )


def _project(
    static_shapes: bool,
    head: Tensor,
    relation: Tensor,
    tail: Tensor,
    corrupted: Tensor,
    entities: Tensor,
    relations: Tensor,
    projections: Tensor,
) -> _Projected:
    """Sort the triples by relation and project their entities."""
    order = torch.argsort(relation)
    sorted_relation = relation.index_select(0, order)
    entity = torch.stack([head, tail, corrupted], dim=1).index_select(0, order).view(-1)
    rows = entities.index_select(0, entity)
    division = relation_rows(sorted_relation, projections, len(rows), static_shapes=static_shapes)
    projected = division.products(rows, _matrices(projections, entities))
    translation = relations.index_select(0, sorted_relation)
    return _Projected(
        sorted_relation, entity, rows, division, projected.view(len(head), 3, -1), translation
    )


def _matrices(projections: Tensor, entities: Tensor) -> Tensor:
    """Return the projections as matrices (n_relations, D, D')."""
    return projections.view(len(projections), entities.shape[1], -1)


def _squared_norms(batch: _Projected) -> tuple[Tensor, Tensor, Tensor]:
    """Return the score difference (B,), and the two distance vectors (B, D') it comes from."""
    head, tail, corrupted = batch.projected.unbind(1)
    translated = head + batch.translation
    near, far = translated - tail, translated - corrupted
    return near.square().sum(1) - far.square().sum(1), near, far


def _norms(batch: _Projected) -> Tensor:
    """Return the Frobenius norms (4,) of heads, tails, corrupted tails and relations."""
    return torch.stack([*batch.projected.norm(dim=(0, 2)), batch.translation.norm()])


def _batch_gradient(
    batch: _Projected, reg_weight: float, grad_loss: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the projections (B, 3, D') and of the translations (B, D')."""
    difference, near, far = _squared_norms(batch)
    slope = torch.sigmoid(difference).masked_fill_(difference > SOFTPLUS_THRESHOLD, 1.0)
    weight = (2 * grad_loss / len(difference)) * slope[:, None]
    near.mul_(weight)
    far.mul_(weight)
    norms = _norms(batch)
    shrink = torch.where(norms > 0, grad_loss * reg_weight / (len(difference) * norms), 0)
    pull = near - far
    grad = torch.stack([pull, -near, far], dim=1).addcmul_(batch.projected, shrink[:3, None])
    return grad, pull.addcmul_(batch.translation, shrink[3])
