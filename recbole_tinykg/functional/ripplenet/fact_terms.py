r"""RippleNet's terms over the facts that a batch reads, each distinct fact computed once.

At hop h a batch reads B x n_memory facts. With the times :math:`c_{hf}` that fact f = (h, r, t) is
among them, their mean belief and the norms of everything gathered for them are

.. math:: \frac{1}{BM} \sum_{h,f} c_{hf}\, \sigma(h_f^\top R_f t_f), \qquad
          \|H_h\|^2 = \sum_f c_{hf} \|h_f\|^2, \quad \|\mathcal{R}_h\|^2 = \sum_f c_{hf} \|R_f\|^2,

and likewise for tails. This is the arithmetic of `loss`, forward and backward, in blocks of facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg.graph.ripple_memories import Memories

FACT_BLOCK = 4096
"""Facts whose embeddings are gathered at a time: 4096 x 64 floats stay in a core's cache."""

DEVICE_FACT_BLOCK = 32 * FACT_BLOCK
"""The same on a GPU, which a block has to keep busy: 131072 x 64 floats are 34 MB."""


class FactTerms(NamedTuple):
    """The terms, and what their gradients are computed from."""

    belief: Tensor  # (facts,) sigmoid of h^T R t
    counts: Tensor  # (n_hop, facts) readings of each fact
    head_counts: Tensor  # (n_hop, pairs) readings of each pair
    relation_counts: Tensor  # (n_hop, n_relations) readings of each relation
    norms: Tensor  # (n_hop, 3) of heads, relation matrices and tails
    num_readings: int  # of a hop: B * n_memory

    def mean_belief(self) -> Tensor:
        """Return the sum over hops of the mean belief, a scalar."""
        return self.counts.sum(0).dot(self.belief) / self.num_readings

    def belief_slope(self) -> Tensor:
        """Return the derivative (facts,) of `mean_belief` by h^T R t."""
        return self.counts.sum(0) * self.belief * (1 - self.belief) / self.num_readings

    def shrinkage(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors of each pair's head, each relation's matrix and each fact's tail.

        Factor times embedding is the gradient of the sum of all `norms` over `num_readings`.
        """
        scale = torch.where(self.norms > 0, 1 / (self.num_readings * self.norms), 0)
        heads, relations, tails = scale.unbind(1)
        return heads @ self.head_counts, relations @ self.relation_counts, tails @ self.counts


def fact_terms(
    memories: Memories,
    heads: Tensor,  # (P, d)
    queries: Tensor,  # (P, d) R^T h
    entities: Tensor,  # (n_entities, d)
    matrices: Tensor,  # (n_relations, d * d)
) -> FactTerms:
    """Compute the terms of a batch."""
    scores, tail_squares = entities.new_empty(2, len(memories.tail)).unbind(0)
    for block in _blocks(memories):
        tails = entities.index_select(0, memories.tail[block])
        query = queries.index_select(0, memories.pair[block])
        torch.sum(query.mul_(tails), dim=1, out=scores[block])
        torch.sum(tails.square_(), dim=1, out=tail_squares[block])
    counts = memories.counts(entities.dtype)
    head_counts = _sums(counts, memories.pair, len(heads))
    relation_counts = _sums(head_counts, memories.relation, len(matrices))
    squares = [
        head_counts @ heads.square().sum(1),
        relation_counts @ torch.linalg.vector_norm(matrices, dim=1).square(),
        counts @ tail_squares,
    ]
    norms = torch.stack(squares, dim=1).sqrt()
    num_readings = len(memories.user) * memories.slots.shape[2]
    return FactTerms(
        torch.sigmoid(scores), counts, head_counts, relation_counts, norms, num_readings
    )


def add_tail_gradient_(
    rows: Tensor,  # (facts, d), added to
    memories: Memories,
    slope: Tensor,  # (facts,) gradient of h^T R t
    shrink: Tensor,  # (facts,) factor of the tail
    queries: Tensor,  # (P, d)
    entities: Tensor,  # (n_entities, d)
) -> None:
    """Add the gradient of each fact's tail."""
    for block in _blocks(memories):
        query = queries.index_select(0, memories.pair[block])
        rows[block].addcmul_(query, slope[block, None])
        tails = entities.index_select(0, memories.tail[block])
        rows[block].addcmul_(tails, shrink[block, None])


def _blocks(memories: Memories) -> Iterator[slice]:
    size = FACT_BLOCK if memories.tail.device.type == "cpu" else DEVICE_FACT_BLOCK
    for start in range(0, len(memories.tail), size):
        yield slice(start, start + size)


def _sums(counts: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return sums (n_hop, num_groups) of the columns of counts (n_hop, N) by group (N,)."""
    out = counts.new_zeros(len(counts), num_groups)
    return out.scatter_add_(1, group.long().expand_as(counts), counts)
