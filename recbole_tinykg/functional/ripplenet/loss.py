r"""RippleNet's loss of a batch, whole, from its parameters (Wang et al., CIKM 2018, equation 13).

.. math:: \mathrm{BCE}(v^\top \sum_h o_h, y) - \lambda_1 \sum_h \overline{\sigma(h^\top R t)}
          + \lambda_2 \sum_h (\|H_h\| + \|T_h\| + \|\mathcal{R}_h\|) / (B M) + \lambda_2 \|W\| / d

`memory_reading` gives the scores and `relation_products` the products with relation matrices. The
second sum is over the B x M facts read at hop h, but each distinct fact is computed once and
weighted by how often it is read. So are the norms over everything gathered (RecBole's `EmbLoss`):
:math:`\|\mathcal{R}_h\|^2 = \sum_r count_r \|R_r\|^2`, and no gathered matrix exists.

Saves: the softmax outputs p (4 B per row, hop and slot), the derivative of the loss by each score
(4 B per row), and by reference the parameters, the batch and the resident ripple sets. p has full
precision, because softmax's derivative is quadratic in it.

No activation is saved as codes: backward rebuilds R h, o and v from p and the parameters. On
ml-100k that takes 1.4 ms of a step of 18; saving 2-bit codes of them instead would halve this, but
nearly triple the bytes saved, and add noise. (Codes of R h could not serve two hops either: the
gradient through hop 1 reaches hop 0 and would meet the same noise again.) So the gradient is exact
at every bit width.

It is one function, because the entities' gradient is the sum of six terms, all added to one buffer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.relation_rows import Segments, Tiles, relation_rows
from recbole_tinykg.functional.ripplenet.fact_terms import add_tail_gradient_, fact_terms
from recbole_tinykg.functional.ripplenet.memory_reading import (
    Read,
    ReadGradients,
    RippleWeights,
    read_memories,
    read_memories_backward,
)
from recbole_tinykg.functional.ripplenet.relation_products import (
    relation_products,
    relation_products_backward,
)
from recbole_tinykg.functional.rows import add_rows_
from recbole_tinykg.graph.ripple_memories import FactTable, Memories


class Penalty(NamedTuple):
    """Weights of the terms besides the prediction's."""

    kg_weight: float
    reg_weight: float


@without_autocast
def ripple_loss(
    users: Tensor,  # (B,)
    items: Tensor,  # (B,)
    labels: Tensor,  # (B,) 0 or 1
    table: FactTable,
    weights: RippleWeights,
    penalty: Penalty,
    *,
    most_pairs: int | None = None,
) -> Tensor:
    """Return the loss, of shape (1,) like RecBole's.

    Args:
        users: Of each row of the batch.
        items: Of each row.
        labels: Of each row.
        table: The ripple sets of all users.
        weights: The parameters.
        penalty: Weights of the terms besides the prediction's.
        most_pairs: How many distinct pairs of a head and a relation the table has; shapes then
            follow from the batch's alone. None: they depend on the batch's facts.
    """
    return _RippleLoss.apply(penalty, most_pairs, users, items, labels, *table, *weights)


class _RippleLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, penalty: Penalty, most_pairs: int | None, *tensors: Tensor) -> Tensor:
        users, items, labels = tensors[:3]
        table, weights = FactTable(*tensors[3:7]), RippleWeights(*tensors[7:])
        memories = Memories.from_users(table, users, most_pairs)
        heads, keys, queries, _ = _products(memories, weights, most_pairs is not None)
        rows = weights.entities.index_select(0, items.index_select(0, memories.order))
        read = read_memories(memories, rows, keys, weights)
        scores = read.scores()
        labels = labels.index_select(0, memories.order).to(scores.dtype)
        terms = fact_terms(memories, heads, queries, weights.entities, weights.matrices)
        norms = terms.norms.sum() / terms.num_readings
        norms = norms + weights.transform.norm() / len(weights.transform)
        loss = F.binary_cross_entropy_with_logits(scores, labels)
        loss = loss - penalty.kg_weight * terms.mean_belief() + penalty.reg_weight * norms
        if any(ctx.needs_input_grad):
            slope = (torch.sigmoid(scores) - labels) / len(labels)
            ctx.penalty, ctx.most_pairs = penalty, most_pairs
            ctx.save_for_backward(users, items, *table, *weights, read.probabilities, slope)
        return loss.view(1)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        users, items, *saved, probabilities, slope = ctx.saved_tensors
        table, weights = FactTable(*saved[:4]), RippleWeights(*saved[4:])
        memories = Memories.from_users(table, users, ctx.most_pairs)
        products = _products(memories, weights, ctx.most_pairs is not None)
        item = items.index_select(0, memories.order)
        rows = weights.entities.index_select(0, item)
        read = read_memories(memories, rows, products.keys, weights, probabilities)
        grads = RippleWeights(*(torch.zeros_like(weight) for weight in weights))
        slope = (slope * grad_loss)[:, None]
        read_grads = read_memories_backward(
            grads.transform,
            slope * read.answer(),
            slope * read.inputs[-1],
            read,
            memories,
            products.keys,
            weights,
        )
        add_rows_(grads.entities, item, read_grads.items)
        kg_grad, reg_grad = -ctx.penalty.kg_weight * grad_loss, ctx.penalty.reg_weight * grad_loss
        scale = kg_grad, reg_grad
        _fact_gradients(grads, read, read_grads, memories, products, weights, scale)
        norm = weights.transform.norm()
        shrink = torch.where(norm > 0, reg_grad / (norm * len(weights.transform)), 0)
        grads.transform.addcmul_(weights.transform, shrink)
        needed = ctx.needs_input_grad[9:]
        return *(None,) * 9, *(g if need else None for g, need in zip(grads, needed, strict=True))


class _Products(NamedTuple):
    """Heads of the batch's pairs and their products with relation matrices."""

    heads: Tensor  # (P, d)
    keys: Tensor  # (P, d)
    queries: Tensor  # (P, d)
    pairs: Segments | Tiles  # divided among relations


def _products(memories: Memories, weights: RippleWeights, static_shapes: bool) -> _Products:
    heads, matrices = weights.entities.index_select(0, memories.head), weights.matrices
    pairs = relation_rows(memories.relation, matrices, len(heads), static_shapes=static_shapes)
    keys = relation_products(heads, matrices, pairs)
    queries = relation_products(heads, matrices, pairs, transposed=True)
    return _Products(heads, keys, queries, pairs)


def _fact_gradients(
    grads: RippleWeights,
    read: Read,
    read_grads: ReadGradients,
    memories: Memories,
    products: _Products,
    weights: RippleWeights,
    scale: tuple[Tensor, Tensor],  # gradients of the belief and of the sum of norms
) -> None:
    """Add to `grads` the gradients through keys, heads, tails and relation matrices."""
    heads, queries = products.heads, products.queries
    terms = fact_terms(memories, heads, queries, weights.entities, weights.matrices)
    slope = terms.belief_slope() * scale[0]
    head_shrink, matrix_shrink, tail_shrink = (factor * scale[1] for factor in terms.shrinkage())
    readings = memories.readings()
    tail_rows = ops.spmm(
        readings.fact_start,
        readings.row,
        read.probabilities.view(-1).index_select(0, readings.place),
        read_grads.answers.flatten(0, 1),
    )
    add_tail_gradient_(tail_rows, memories, slope, tail_shrink, queries, weights.entities)
    add_rows_(grads.entities, memories.tail, tail_rows)
    del tail_rows
    grad_keys = ops.spmm(
        readings.pair_start,
        readings.row,
        read_grads.logits.view(-1).index_select(0, readings.place),
        torch.stack(read.inputs[:-1], dim=1).flatten(0, 1),
    )
    grads.matrices.addcmul_(weights.matrices, matrix_shrink[:, None])
    head_rows = relation_products_backward(
        grads.matrices,
        grad_keys,
        # The queries' gradient: a pair's sum over its facts of slope * tail.
        ops.spmm(memories.fact_bounds, memories.tail, slope, weights.entities),
        heads,
        weights.matrices,
        products.pairs,
    )
    head_rows.addcmul_(heads, head_shrink[:, None])
    add_rows_(grads.entities, memories.head, head_rows)
