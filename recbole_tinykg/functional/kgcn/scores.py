"""KGCN's scores of all items for some users, in bounded memory and without a gradient.

An item's receptive field has K^h leaves, but the vector of an entity depends only on the user and
the layer, not on the item that it is reached from, so each is computed once per user. The first
layer's product of embeddings and weights does not depend on the user either and is computed once
for all. Items go in blocks and users in chunks. That product (two for `concat`) and the numbers of
each block's entities and neighbours stay from call to call.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.autograd import without_autocast
from recbole_tinykg.graph.receptive_field import ReceptiveField

ITEM_BLOCK = 4096
"""Items whose receptive fields are merged."""

CHUNK_ELEMENTS = 2**21
"""Elements of a layer's output that a chunk of users may have: 8 MiB of floats."""


class _Layer(NamedTuple):
    """Indices of a layer in an item block: S entities from the T of the layer below."""

    entities: Tensor  # (S,) int32
    ego: Tensor  # (S,) int32 place of each entity in `side`
    neighbor: Tensor | None  # (S * K,) int32 places of the neighbours; None: they are entities
    num_below: int  # T


class NeighborhoodScores:
    """Scores of items 0 to num_items - 1; valid as long as the weights do not change.

    Args:
        field: sampled neighbours.
        aggregator: `sum`, `neighbor` or `concat`.
        num_items: how many entities are items.
        entities: (num_entities, d) embeddings.
        relations: (R, d) embeddings.
        weights: W and b of each layer.
    """

    def __init__(
        self,
        field: ReceptiveField,
        aggregator: str,
        num_items: int,
        entities: Tensor,
        relations: Tensor,
        weights: tuple[Tensor, ...],
    ) -> None:
        self._field, self._aggregator, self._relations = field, aggregator, relations
        self._linear = list(zip(weights[::2], weights[1::2], strict=True))
        items = torch.arange(num_items, dtype=torch.int32, device=entities.device)
        self._blocks = [self._layers(block) for block in items.split(ITEM_BLOCK)]
        with torch.no_grad(), torch.autocast(entities.device.type, enabled=False):
            self._ego, self._side = self._multiply(entities, 0)  # (num_entities, d) each

    @torch.no_grad()
    @without_autocast
    def scores(self, users: Tensor) -> Tensor:  # (B, d) -> (B, num_items)
        """Return the products of each user's vector and the items' vectors for that user."""
        table = users @ self._relations.t() / users.shape[1]
        widest = max(len(layer.entities) for layers in self._blocks for layer in layers)
        chunk = max(1, CHUNK_ELEMENTS // (widest * users.shape[1]))
        return torch.cat(
            [
                torch.cat([self._score(layers, u, t) for layers in self._blocks], dim=1)
                for u, t in zip(users.split(chunk), table.split(chunk), strict=True)
            ]
        )

    def _layers(self, items: Tensor) -> list[_Layer]:
        """Merge the receptive fields of a block of items; return its layers in order."""
        wanted = items
        layers: list[_Layer] = []
        for _ in range(self._field.num_hops - 1):
            neighbors = self._field.neighbors.index_select(0, wanted).view(-1)
            below = torch.unique(torch.cat([wanted, neighbors]))
            ego, neighbor = (
                torch.searchsorted(below, t, out_int32=True) for t in (wanted, neighbors)
            )
            layers.insert(0, _Layer(wanted, ego, neighbor, len(below)))
            wanted = below
        return [_Layer(wanted, wanted, None, len(self._field.neighbors)), *layers]

    def _multiply(self, rows: Tensor, layer: int) -> tuple[Tensor | None, Tensor]:
        """Return what rows (n, d) add as an entity's own vector, with bias, and as a neighbour."""
        weight, bias = self._linear[layer]
        if self._aggregator == "concat":
            own, other = weight.chunk(2, dim=1)
            return torch.addmm(bias, rows, own.t()), rows @ other.t()
        side = rows @ weight.t()
        return (side + bias if self._aggregator == "sum" else None), side

    def _score(self, layers: list[_Layer], users: Tensor, table: Tensor) -> Tensor:
        """Return the scores (C, items of the block) of a chunk of users (C, d)."""
        num_users, dim = users.shape
        ego, side, vectors = self._ego, self._side, users
        for i, layer in enumerate(layers):
            if i > 0:
                ego, side = self._multiply(vectors, i)
            vectors = self._messages(layer, side, table).view(num_users, -1, dim)
            if ego is None:
                vectors += self._linear[i][1]
            else:
                vectors += ego.view(-1, layer.num_below, dim).index_select(1, layer.ego)
            vectors = (vectors.tanh_() if i == len(layers) - 1 else vectors.relu_()).view(-1, dim)
        return torch.bmm(vectors.view(num_users, -1, dim), users[:, :, None]).squeeze(2)

    def _messages(self, layer: _Layer, side: Tensor, table: Tensor) -> Tensor:
        """Return weighted means (C * S, d) of neighbours; `side` has T rows, or T per user."""
        num_users, size = len(table), self._field.sample_size
        relation = self._field.relations.index_select(0, layer.entities).view(-1)
        score = table.index_select(1, relation).view(-1, size)
        attention = torch.softmax(score, dim=1).div_(size)
        count = torch.arange(len(score) * size + 1, dtype=torch.int32, device=table.device)
        if layer.neighbor is None:
            neighbors = self._field.neighbors.index_select(0, layer.entities).view(-1)
            neighbor = neighbors.repeat(num_users)
        else:
            first = count[:num_users].repeat_interleave(len(layer.neighbor)) * layer.num_below
            neighbor = layer.neighbor.repeat(num_users) + first
        return ops.spmm(count[::size], neighbor, attention.view(-1), side)
