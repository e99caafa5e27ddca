"""RippleNet's scores without a gradient, for pairs and for all items, in bounded memory.

An item's vector v changes along the hops differently for each user: users x items x d numbers. But
each change is a weighted sum of the user's few tails and then a linear map. So v is written as what
all users share, the item after the maps, plus weights p times tails after the maps, and only inner
products with v are ever computed: users x items x n_memory numbers, and a third of the arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg.functional.guards import without_autocast
from recbole_tinykg.functional.ripples.memories import (
    FactTable,
    Memories,
    distinct_pairs,
    segments_of,
)
from recbole_tinykg.functional.ripples.memory_reading import Weights, read_memories
from recbole_tinykg.functional.ripples.relation_products import relation_keys

PAIR_BLOCK = 8192
"""Pairs of a user and an item that are scored at a time."""

ITEM_BLOCK = 8192
"""Items that are scored at a time for all users of a block."""

BLOCK_NUMBERS = 1 << 18
"""Numbers in a temporary, users x items x memory slots of all hops: 1 MiB."""


@torch.no_grad()
@without_autocast
def pair_scores(
    users: Tensor,  # (B,)
    items: Tensor,  # (B,)
    table: FactTable,
    weights: Weights,
) -> Tensor:
    """Scores (B,) of pairs of a user and an item."""
    blocks = zip(users.split(PAIR_BLOCK), items.split(PAIR_BLOCK), strict=True)
    return torch.cat([_pair_scores(*block, table, weights) for block in blocks])


def _pair_scores(users: Tensor, items: Tensor, table: FactTable, weights: Weights) -> Tensor:
    memories = Memories.of(table, users)
    rows = weights.entities.index_select(0, items.index_select(0, memories.order))
    scores = read_memories(memories, rows, _keys(memories, weights), weights).scores()
    return torch.empty_like(scores).index_copy_(0, memories.order, scores)


class ItemScores:
    """Scores of the first `num_items` entities, which are items; valid while the weights stay.

    What all users share is computed once: the keys of all pairs, and the items after each map.
    """

    def __init__(self, num_items: int, table: FactTable, weights: Weights) -> None:
        """Compute what is shared."""
        self._table, self._entities, self._transform = table, weights.entities, weights.transform
        self._share(weights.entities[:num_items], weights.matrices)

    @torch.no_grad()
    @without_autocast
    def _share(self, items: Tensor, matrices: Tensor) -> None:
        """Multiply the table's heads by their relations, and the items by the map of each hop."""
        table = self._table
        self._pair, head, relation = distinct_pairs(table.head, table.relation)
        heads = self._entities.index_select(0, head)
        self._keys = relation_keys(heads, matrices, segments_of(relation))
        self._bases = [items]
        for _ in range(table.memory.shape[1]):
            self._bases.append(self._bases[-1] @ self._transform.t())

    @torch.no_grad()
    @without_autocast
    def scores(self, users: Tensor) -> Tensor:  # (B,) -> (B, num_items)
        """Scores of each user with every item, in blocks of both."""
        num_items = len(self._bases[0])
        num_slots = self._table.memory.shape[1:].numel()
        num_users = max(1, BLOCK_NUMBERS // (min(ITEM_BLOCK, num_items) * num_slots))
        out = self._entities.new_empty(len(users), num_items)
        for block, rows in zip(users.split(num_users), out.split(num_users), strict=True):
            facts = self._table.memory.index_select(0, block)
            keys = self._gather(self._keys, self._pair, facts)
            tails = self._gather(self._entities, self._table.tail, facts)
            for start in range(0, num_items, ITEM_BLOCK):
                columns = slice(start, start + ITEM_BLOCK)
                rows[:, columns] = self._read_all(columns, keys, tails)
        return out

    @staticmethod
    def _gather(rows: Tensor, column: Tensor, facts: Tensor) -> Tensor:
        """Rows (U, n_hop, n_memory, d) that a column of the table names for facts."""
        index = column.index_select(0, facts.view(-1))
        return rows.index_select(0, index).view(*facts.shape, -1)

    def _read_all(
        self,
        items: slice,
        keys: Tensor,  # (U, n_hop, n_memory, d)
        tails: Tensor,  # (U, n_hop, n_memory, d)
    ) -> Tensor:
        """Scores (U, n) of every user with the items."""
        base = self._bases[0][items]
        state = _State(base, keys.new_empty(len(keys), 0, len(base)), tails[:, 0, :0])
        for hop in range(keys.shape[1]):
            p = torch.softmax(state.products(keys[:, hop]), dim=1)
            state = _State(
                self._bases[hop + 1][items],
                torch.cat([state.p, p], dim=1),
                torch.cat([state.carried, tails[:, hop]], dim=1) @ self._transform.t(),
            )
        return state.products(tails.flatten(1, 2)).mul_(state.p).sum(1)


class _State(NamedTuple):
    """All vectors v, of user u and item i: base[i] + the sum over k of p[u, k, i] carried[u, k]."""

    base: Tensor  # (n, d)
    p: Tensor  # (U, K, n)
    carried: Tensor  # (U, K, d)

    def products(self, keys: Tensor) -> Tensor:
        """Inner products (U, M, n) of each v with its user's keys (U, M, d)."""
        from_base = (keys.flatten(0, 1) @ self.base.t()).view(*keys.shape[:2], -1)
        return from_base.baddbmm_(keys @ self.carried.transpose(1, 2), self.p)


def _keys(memories: Memories, weights: Weights) -> Tensor:
    heads = weights.entities.index_select(0, memories.head)
    return relation_keys(heads, weights.matrices, memories.segments)
