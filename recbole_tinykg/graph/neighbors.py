"""A fixed number of neighbours for every entity, sampled once, for KGCN and KGNN-LS.

The knowledge graph is taken as undirected: a triple (h, r, t) makes t a neighbour of h, and h of t,
both under r. Of n neighbours, K are drawn without replacement if n >= K, else with replacement; an
entity without any is its own neighbour under relation 0, as in RecBole.

Edges are shuffled, then sorted by entity: the first K of an entity are a draw without replacement,
for all entities at once. The generator is the caller's, so RecBole's random state stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_neighbors(
    heads: Tensor,  # (T,) int64
    relations: Tensor,  # (T,) int64
    tails: Tensor,  # (T,) int64
    num_entities: int,
    sample_size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # (num_entities, sample_size) int32: neighbours, their relations
    """Draw neighbours of every entity from the triples of a knowledge graph."""
    entity, none = torch.cat([heads, tails]), torch.zeros(1, dtype=torch.int64)
    other = torch.cat([tails, heads, none])
    by_chance = torch.randperm(len(entity), generator=generator)
    order = by_chance[torch.argsort(entity[by_chance], stable=True)]
    counts = torch.bincount(entity, minlength=num_entities)
    starts = counts.cumsum(0) - counts
    draws = torch.rand(num_entities, sample_size, generator=generator, dtype=torch.float64)
    repeated = (draws * counts[:, None]).long()
    first = torch.arange(sample_size).expand(num_entities, -1)
    places = starts[:, None] + torch.where(counts[:, None] >= sample_size, first, repeated)
    has_none = (counts == 0)[:, None]
    edges = torch.cat([order, none + len(order)])[torch.where(has_none, len(order), places)]
    own = torch.arange(num_entities)[:, None]
    return (
        torch.where(has_none, own, other[edges]).int(),
        torch.cat([relations, relations, none])[edges].int(),
    )
