"""RippleNet's scores without a gradient, for pairs and for all items, in bounded memory.

An item's vector v changes along the hops differently for each user: users x items x d numbers. But
each change is a weighted sum of the user's few tails and then a linear map. So v is written as what
all users share, the item after the maps, plus weights p times tails after the maps, and only inner
products with v are ever computed: users x items x n_memory numbers, and a third of the arithmetic.
"""

from __future__ import annotations

from functools import reduce
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

    What all users share is computed once: the keys of all pairs, and the items after each map. Hops
    that all repeat the first, as RecBole's do, are gathered and multiplied once.
    """

    def __init__(self, num_items: int, table: FactTable, weights: Weights) -> None:
        """Compute what is shared."""
        memory = table.memory
        repeats = torch.equal(memory, memory[:, :1].expand_as(memory))
        self._memory = memory[:, :1] if repeats else memory
        self._tail, self._entities = table.tail, weights.entities
        self._share(weights.entities[:num_items], table, weights)

    @torch.no_grad()
    @without_autocast
    def _share(self, items: Tensor, table: FactTable, weights: Weights) -> None:
        """Multiply the table's heads by their relations, and the items by the map of each hop."""
        self._pair, head, relation = distinct_pairs(table.head, table.relation)
        heads = weights.entities.index_select(0, head)
        self._keys = relation_keys(heads, weights.matrices, segments_of(relation))
        self._map = weights.transform.t()
        self._bases = [items]
        for _ in range(table.memory.shape[1]):
            self._bases.append(self._bases[-1] @ self._map)

    @torch.no_grad()
    @without_autocast
    def scores(self, users: Tensor) -> Tensor:  # (B,) -> (B, num_items)
        """Scores of each user with every item, in blocks of both."""
        num_items, num_hops = len(self._bases[0]), len(self._bases) - 1
        num_slots = num_hops * self._memory.shape[2]
        num_users = max(1, BLOCK_NUMBERS // (min(ITEM_BLOCK, num_items) * num_slots))
        out = self._entities.new_empty(len(users), num_items)
        for block, rows in zip(users.split(num_users), out.split(num_users), strict=True):
            facts = self._memory.index_select(0, block)
            keys = self._gather(self._keys, self._pair, facts)
            tails = self._gather(self._entities, self._tail, facts)
            for start in range(0, num_items, ITEM_BLOCK):
                columns = slice(start, start + ITEM_BLOCK)
                bases = [base[columns] for base in self._bases]
                self._read_all(rows[:, columns], bases, keys, tails)
        return out

    @staticmethod
    def _gather(rows: Tensor, column: Tensor, facts: Tensor) -> list[Tensor]:
        """Rows (U, n_memory, d), by hop, that a column of the table names for facts."""
        index = column.index_select(0, facts.view(-1))
        return list(rows.index_select(0, index).view(*facts.shape, -1).unbind(1))

    def _read_all(
        self,
        out: Tensor,  # (U, n), written
        bases: list[Tensor],  # (n, d) items after each map
        keys: list[Tensor],  # (U, n_memory, d) by hop, or one for all
        tails: list[Tensor],  # (U, n_memory, d) by hop, or one for all
    ) -> None:
        """Scores of every user with the items."""
        sums: list[_Sum] = []
        for hop, base in enumerate(bases[:-1]):
            logits = _products(keys[hop % len(keys)], base, sums)
            sums.append(_Sum(torch.softmax(logits, dim=1), tails[hop % len(tails)]))
            sums = [_Sum(p, vectors @ self._map) for p, vectors in sums]
        out.zero_()
        for first, own in enumerate(tails):
            weights = reduce(torch.add, (p for p, _ in sums[first :: len(tails)]))
            out += _products(own, bases[-1], sums).mul_(weights).sum(1)


class _Sum(NamedTuple):
    """What user u adds to item i: the sum over m of p[u, m, i] vectors[u, m]."""

    p: Tensor  # (U, n_memory, n)
    vectors: Tensor  # (U, n_memory, d)


def _products(rows: Tensor, base: Tensor, sums: list[_Sum]) -> Tensor:
    """Inner products (U, M, n) of rows (U, M, d) with base[i] plus all sums of the user."""
    out = (rows.flatten(0, 1) @ base.t()).view(*rows.shape[:2], -1)
    for p, vectors in sums:
        out.baddbmm_(rows @ vectors.transpose(1, 2), p)
    return out


def _keys(memories: Memories, weights: Weights) -> Tensor:
    heads = weights.entities.index_select(0, memories.head)
    return relation_keys(heads, weights.matrices, memories.segments)
