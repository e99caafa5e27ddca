"""Scores of all items for some users under KGCN's convolution, in bounded memory, no gradient.

An item's receptive field has K^H leaves, but the vector of an entity depends only on the user and
the layer, not on the item that it is reached from: each is computed once per user. What does not
depend on the user either, the first layer's product of embeddings and weights, is computed once for
all users. Items go in blocks and users in chunks, so that memory does not grow with either.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.neighborhood.receptive_field import ReceptiveField

ITEM_BLOCK = 4096
"""Items whose receptive fields are merged."""

CHUNK_ELEMENTS = 2**21
"""Elements of a layer's output that a chunk of users may have: 8 MiB of floats."""


class _Layer(NamedTuple):
    """What a layer computes in an item block: S entities from the T entities of the layer below."""

    ego: Tensor  # (S,) int64 place of each entity among the T below
    neighbor: Tensor  # (S * K,) int32 places of the neighbours among the T below
    relation: Tensor  # (S * K,) int64
    num_below: int  # T


class _Block(NamedTuple):
    """A range of items: layers, and the first layer's user-independent part."""

    layers: list[_Layer]
    ego: Tensor | None  # (S, d) of the first layer, with the bias
    side: Tensor  # (T, d)


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
        """Merge the receptive fields of each block of items."""
        self._field, self._aggregator, self._relations = field, aggregator, relations
        self._linear = list(zip(weights[::2], weights[1::2], strict=True))
        device = entities.device
        self._blocks = [
            self._block(torch.arange(i, min(i + ITEM_BLOCK, num_items), device=device), entities)
            for i in range(0, num_items, ITEM_BLOCK)
        ]

    def scores(self, users: Tensor) -> Tensor:  # (B, d) -> (B, num_items)
        """Products of each user's vector and the items' vectors for that user."""
        table = users @ self._relations.t() / users.shape[1]
        widest = max(len(layer.ego) for block in self._blocks for layer in block.layers)
        chunk = max(1, CHUNK_ELEMENTS // (widest * users.shape[1]))
        return torch.cat(
            [
                torch.cat([self._score(block, u, t) for block in self._blocks], dim=1)
                for u, t in zip(users.split(chunk), table.split(chunk), strict=True)
            ]
        )

    def _block(self, items: Tensor, entities: Tensor) -> _Block:
        field, wanted = self._field, items
        layers: list[_Layer] = []
        for _ in range(field.num_hops):
            neighbors = field.neighbors.index_select(0, wanted).view(-1).long()
            below = torch.unique(torch.cat([wanted, neighbors]))
            layers.insert(
                0,
                _Layer(
                    torch.searchsorted(below, wanted),
                    torch.searchsorted(below, neighbors).int(),
                    field.relations.index_select(0, wanted).view(-1).long(),
                    len(below),
                ),
            )
            wanted = below
        rows = entities.index_select(0, wanted)
        ego, side = self._multiply(rows, 0)
        if ego is not None:
            ego = ego.index_select(0, layers[0].ego)
        return _Block(layers, ego, side)

    def _multiply(self, rows: Tensor, layer: int) -> tuple[Tensor | None, Tensor]:
        """Of rows (n, d): their part as an entity's own vector, with bias, and as a neighbour."""
        weight, bias = self._linear[layer]
        if self._aggregator == "concat":
            own, other = weight.chunk(2, dim=1)
            return torch.addmm(bias, rows, own.t()), rows @ other.t()
        side = rows @ weight.t()
        return (side + bias if self._aggregator == "sum" else None), side

    def _score(self, block: _Block, users: Tensor, table: Tensor) -> Tensor:
        """Scores (C, items of the block) of a chunk of users (C, d)."""
        num_users, dim = users.shape
        ego, side, vectors = block.ego, block.side, users
        for i, layer in enumerate(block.layers):
            size = len(layer.ego)
            if i > 0:
                ego, side = self._multiply(vectors, i)
                if ego is not None:
                    ego = ego.view(num_users, -1, dim).index_select(1, layer.ego)
            vectors = self._messages(layer, side, table, shared=i == 0).view(num_users, size, dim)
            vectors += self._linear[i][1] if ego is None else ego
            vectors = (vectors.tanh_() if i == len(block.layers) - 1 else vectors.relu_()).view(
                -1, dim
            )
        return torch.bmm(vectors.view(num_users, -1, dim), users[:, :, None]).squeeze(2)

    def _messages(self, layer: _Layer, side: Tensor, table: Tensor, shared: bool) -> Tensor:
        """Weighted means (C * S, d) of neighbours; `side` has T rows, or T for each user."""
        num_users, size = len(table), self._field.sample_size
        score = table.index_select(1, layer.relation).view(-1, size)
        attention = torch.softmax(score, dim=1).div_(size)
        neighbor = layer.neighbor.repeat(num_users)
        count = torch.arange(len(neighbor) + 1, dtype=torch.int32, device=table.device)
        if not shared:
            neighbor += count[:num_users].repeat_interleave(len(layer.neighbor)) * layer.num_below
        return ops.spmm(count[::size], neighbor, attention.view(-1), side)
