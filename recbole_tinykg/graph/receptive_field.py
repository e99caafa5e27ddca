"""The receptive field of some items: their sampled `neighbors`, hop by hop, looked up when needed.

Hop h of an item holds K^h entities. They follow from the items and two resident tables, so forward
saves the items and backward looks the rest up again.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ReceptiveField:
    """Sampled neighbours of every entity, and how far to follow them.

    Attributes:
        neighbors: (num_entities, K) int32 entities.
        relations: (num_entities, K) int32 relation to each neighbour.
        num_hops: H, at least 1.
    """

    neighbors: Tensor
    relations: Tensor
    num_hops: int

    @property
    def sample_size(self) -> int:
        """K, neighbours of an entity."""
        return self.neighbors.shape[1]

    def entities(self, items: Tensor) -> list[Tensor]:  # items (N,)
        """Return the entities (N * K^h,) int32 of hops 0 to H, an entity's neighbours side by side.

        Hop 0 holds the items themselves.
        """
        hops = [items.int()]
        for _ in range(self.num_hops):
            hops.append(self.neighbors.index_select(0, hops[-1]).view(-1))
        return hops

    def relation_ids(self, items: Tensor) -> list[Tensor]:  # items (N,)
        """Return the relations (N * K^h, K) int32 of entities of hops 0 to H - 1 to neighbours."""
        hops = self.entities(items)[:-1]
        return [self.relations.index_select(0, entities) for entities in hops]
