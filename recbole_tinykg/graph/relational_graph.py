"""A knowledge graph and the interactions of users with its items, as the hops of KGIN need them.

Only a *head*, an entity with outgoing edges, ever has a message: after the first hop the maps of
all other entities are zero (ml-100k: 6,937 heads of 34,629 entities). So maps have a row per head.
Three `paired_edges` serve all hops:

* `by_head`: what a head receives, forward;
* `by_tail`: what every entity sends, for the backward of the first hop;
* `by_head_tail`: the same for tails that are heads themselves, for the backward of later hops.

A step may use a part of the edges (KGIN's "node dropout"): the patterns stay, and edges that are
left out weigh 0. What users receive from items is in `interactions`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_tinykg.graph.csr import register_buffers, row_places
from recbole_tinykg.graph.interactions import Interactions
from recbole_tinykg.graph.paired_edges import PairedEdges, RelationGradient
from recbole_tinykg.graph.triples import Triples


class EdgeWeights(NamedTuple):
    """What a step multiplies edges and interactions by."""

    edges: Tensor  # (E,) 1, or 0 for an edge that is left out
    inverse_degree: Tensor  # (num_heads, 1) of the edges that are kept
    interactions: Tensor  # those of `Interactions`, or of its transpose in backward


class RelationalGraph(nn.Module):
    """Directed edges with relations over entities, and who interacted with which item.

    Args:
        edges: Triples (E,) int64.
        interactions: Users and items; items are the first entities.
        num_entities: Number of entities.
        num_relations: Number of relations.
    """

    heads: Tensor  # (num_heads,) int64 entities
    position: Tensor  # (num_entities,) int32 place among the heads, -1 if it is no head
    slot: Tensor  # int32 place in `by_head` of the edges of `by_head_tail`, before they are sorted
    item_of_head: Tensor  # (num_heads,) int64 item, -1 for heads that are no item

    def __init__(
        self, edges: Triples, interactions: Interactions, num_entities: int, num_relations: int
    ) -> None:
        super().__init__()
        head, relation, tail = edges
        heads, row = torch.unique(head, return_inverse=True)
        self.num_heads, self.num_entities = len(heads), num_entities
        self.num_items = len(interactions.crow_t) - 1
        position = row_places(heads, num_entities)
        item_of_head = torch.where(heads < self.num_items, heads, -1)
        self.interactions = interactions
        self.by_head = PairedEdges(row, relation, tail, self.num_heads, num_relations)
        order = self.by_head.order.long()
        row, relation, tail = row[order], relation[order], tail[order]
        self.by_tail = PairedEdges(tail, relation, row, num_entities, num_relations)
        slot = (position[tail] >= 0).nonzero().view(-1)
        self.by_head_tail = PairedEdges(
            position[tail[slot]].long(), relation[slot], row[slot], self.num_heads, num_relations
        )
        register_buffers(
            self, heads=heads, position=position, item_of_head=item_of_head, slot=slot.int()
        )

    @property
    def num_edges(self) -> int:
        """Number of edges, E."""
        return self.by_head.num_edges

    def edges(self) -> Triples:
        """Return the edges (E,) int64 in the order of `EdgeWeights.edges`."""
        by_head = self.by_head
        pair = torch.repeat_interleave(by_head.pair_crow.diff().long())
        row = torch.repeat_interleave(by_head.row_crow.diff().long())[pair]
        relation = by_head.pair_relation[pair].long()
        return Triples(self.heads[row], relation, by_head.col.long())

    def weights(self, edges: Tensor, interactions: Tensor) -> EdgeWeights:
        """Return the weights of a step from those of its edges (E,) and interactions."""
        degree = self.by_head.degrees(edges)
        return EdgeWeights(edges, degree.clamp_(min=1).reciprocal_()[:, None], interactions)

    def head_places(self, entities: Tensor) -> Tensor:  # (N,) -> (N,) int64
        """Return the places of entities among the heads, -1 for no head; -1 is no entity."""
        places = self.position.index_select(0, entities.clamp(min=0))
        return torch.where(entities >= 0, places, -1).long()

    def places(self, first: bool) -> Tensor | None:
        """Return where a hop finds an entity's row: in the parameter, or in a map of the heads."""
        return None if first else self.position

    def messages(
        self, weights: EdgeWeights, source: Tensor, relations: Tensor, first: bool
    ) -> Tensor:
        """Return the means (num_heads, D) that all heads receive."""
        out = source.new_zeros(self.num_heads, source.shape[1])
        self.by_head.add_sums_(out, weights.edges, source, relations, self.places(first))
        return out.mul_(weights.inverse_degree)

    def messages_of(
        self,
        rows: Tensor,  # (R,) int64 places among the heads, -1 for no head
        weights: EdgeWeights,
        source: Tensor,
        relations: Tensor,
        first: bool,
        *,
        static_shapes: bool = False,
    ) -> Tensor:
        """Return the means (R, D) that some heads receive, zero for a row that is no head."""
        places = self.places(first)
        sums = self.by_head.sums_of(
            rows, weights.edges, source, relations, places, static_shapes=static_shapes
        )
        return sums.mul_(weights.inverse_degree.index_select(0, rows.clamp(min=0)))

    def return_messages_(
        self,
        out: Tensor,  # (num_entities or num_heads, D)
        weights: EdgeWeights,
        gradient: Tensor,  # (num_heads, D), or (R, D) with places
        relations: Tensor,
        relation_gradient: RelationGradient,
        places: Tensor | None,  # (num_heads,) int32
    ) -> None:
        """Add the gradients of the source and of the relations, given that of the sums."""
        edges, order = self.by_tail, self.by_tail.order
        if len(out) != self.num_entities:  # a later hop, from heads to heads
            edges = self.by_head_tail
            order = self.slot.index_select(0, edges.order)
        values = weights.edges.index_select(0, order)
        edges.add_sums_(out, values, gradient, relations, places, relation_gradient)
