"""RippleNet's scores without a gradient, for pairs and for all items, in bounded memory.

An item's vector v changes along the hops differently for each user: users x items x d numbers. But
each change is a weighted sum of the user's few tails and then a linear map. So v is split into what
all users share, the item after the maps, and weights p times tails after the maps, and only inner
products with v are computed: users x items x n_memory numbers, and a third of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import without_autocast
from recbole_tinykg.functional.relation_rows import relation_rows
from recbole_tinykg.functional.ripplenet.memory_reading import RippleWeights, read_memories
from recbole_tinykg.functional.ripplenet.relation_products import relation_products
from recbole_tinykg.graph.ripple_memories import FactTable, Memories, distinct_pairs

PAIR_BLOCK = 8192
"""Pairs of a user and an item that are scored at a time."""

ITEM_BLOCK = 8192
"""Items that are scored at a time for all users of a block, at most."""

BLOCK_NUMBERS = 1 << 18
"""Numbers in a temporary, users x items x memory slots of all hops: 1 MiB."""


@torch.no_grad()
@without_autocast
def pair_scores(
    users: Tensor,  # (B,)
    items: Tensor,  # (B,)
    table: FactTable,
    weights: RippleWeights,
) -> Tensor:
    """Return the scores (B,) of pairs of a user and an item."""
    blocks = zip(users.split(PAIR_BLOCK), items.split(PAIR_BLOCK), strict=True)
    return torch.cat([_pair_scores(*block, table, weights) for block in blocks])


def _pair_scores(users: Tensor, items: Tensor, table: FactTable, weights: RippleWeights) -> Tensor:
    memories = Memories.from_users(table, users)
    rows = weights.entities.index_select(0, items.index_select(0, memories.order))
    heads = weights.entities.index_select(0, memories.head)
    pairs = relation_rows(memories.relation, weights.matrices, len(heads))
    keys = relation_products(heads, weights.matrices, pairs)
    scores = read_memories(memories, rows, keys, weights).scores()
    return torch.empty_like(scores).index_copy_(0, memories.order, scores)


@dataclass(frozen=True)
class ItemScores:
    """Scores of the first entities, which are items; valid until the weights change.

    What all users share is computed once: the keys of all pairs, and the items after each map. Hops
    that all repeat the first, as RecBole's do, are gathered and multiplied once.

    Attributes:
        memory: (n_users, n_hop, n_memory) facts, or (n_users, 1, n_memory) for all hops.
        pair: (F,) pair of each fact.
        tail: (F,) entity of each fact.
        keys: (P, d) of the pairs.
        bases: (num_items, d) items after 0 to n_hop maps.
        map: (d, d), applied from the right.
        entities: (n_entities, d) embeddings.
    """

    memory: Tensor
    pair: Tensor
    tail: Tensor
    keys: Tensor
    bases: list[Tensor]
    map: Tensor
    entities: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, num_items: int, table: FactTable, weights: RippleWeights) -> ItemScores:
        """Multiply the table's heads by their relations, and the items by the map of each hop."""
        memory, entities = table.memory, weights.entities.detach()
        repeats = torch.equal(memory, memory[:, :1].expand_as(memory))
        pair, _, first = distinct_pairs(table.head, table.relation)
        head, relation = (column.index_select(0, first) for column in table[1:3])
        bases, linear = [entities[:num_items]], weights.transform.detach().t()
        with torch.autocast(entities.device.type, enabled=False):
            heads = entities.index_select(0, head)
            pairs = relation_rows(relation, weights.matrices, len(heads))
            keys = relation_products(heads, weights.matrices, pairs)
            for _ in range(memory.shape[1]):
                bases.append(bases[-1] @ linear)
        memory = memory[:, :1] if repeats else memory
        return cls(memory, pair, table.tail, keys, bases, linear, entities)

    @torch.no_grad()
    def scores(self, users: Tensor) -> Tensor:  # (B,) -> (B, num_items)
        """Return the scores of each user with every item, in blocks of both."""
        num_items, num_hops = len(self.bases[0]), len(self.bases) - 1
        num_slots = num_hops * self.memory.shape[2]
        size = max(1, min(ITEM_BLOCK, num_items, BLOCK_NUMBERS // num_slots))
        num_users = max(1, BLOCK_NUMBERS // (size * num_slots))
        out = self.entities.new_empty(len(users), num_items)
        with torch.autocast(users.device.type, enabled=False):
            for block, rows in zip(users.split(num_users), out.split(num_users), strict=True):
                facts = self.memory.index_select(0, block)
                keys = self._gather(self.keys, self.pair, facts)
                tails = self._gather(self.entities, self.tail, facts)
                for start in range(0, num_items, size):
                    columns = slice(start, start + size)
                    bases = [base[columns] for base in self.bases]
                    self._read_all(rows[:, columns], bases, keys, tails)
        return out

    @staticmethod
    def _gather(rows: Tensor, column: Tensor, facts: Tensor) -> list[Tensor]:
        """Return the rows (U, n_memory, d), by hop, that a column of the table names for facts."""
        index = column.index_select(0, facts.view(-1))
        return list(rows.index_select(0, index).view(*facts.shape, rows.shape[1]).unbind(1))

    def _read_all(
        self,
        out: Tensor,  # (U, n), written
        bases: list[Tensor],  # (n, d) items after each map
        keys: list[Tensor],  # (U, n_memory, d) by hop, or one for all
        tails: list[Tensor],  # (U, n_memory, d) by hop, or one for all
    ) -> None:
        """Write the scores of every user with the items."""
        sums: list[_Sum] = []
        for hop, base in enumerate(bases[:-1]):
            logits = _products(keys[hop % len(keys)], base, sums)
            sums.append(_Sum(torch.softmax(logits, dim=1), tails[hop % len(tails)]))
            sums = [_Sum(p, vectors @ self.map) for p, vectors in sums]
        out.zero_()
        for first, own in enumerate(tails):
            weights = reduce(torch.add, (p for p, _ in sums[first :: len(tails)]))
            out += _products(own, bases[-1], sums).mul_(weights).sum(1)


class _Sum(NamedTuple):
    """What user u adds to item i: the sum over m of p[u, m, i] * vectors[u, m]."""

    p: Tensor  # (U, n_memory, n)
    vectors: Tensor  # (U, n_memory, d)


def _products(rows: Tensor, base: Tensor, sums: list[_Sum]) -> Tensor:
    """Return inner products (U, M, n) of rows (U, M, d) with base[i] plus the user's sums."""
    out = (rows.flatten(0, 1) @ base.t()).view(*rows.shape[:2], len(base))
    for p, vectors in sums:
        out.baddbmm_(rows @ vectors.transpose(1, 2), p)
    return out
