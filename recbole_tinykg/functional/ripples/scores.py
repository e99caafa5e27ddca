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
from recbole_tinykg.functional.ripples.memories import FactTable, Memories
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


@torch.no_grad()
@without_autocast
def item_scores(
    users: Tensor,  # (B,)
    num_items: int,
    table: FactTable,
    weights: Weights,
) -> Tensor:
    """Scores (B, num_items) of each user with the first `num_items` entities, which are items."""
    items = weights.entities[:num_items].split(ITEM_BLOCK)
    num_slots = table.memory.shape[1:].numel()
    num_users = max(1, BLOCK_NUMBERS // (len(items[0]) * num_slots))
    out = weights.entities.new_empty(len(users), num_items)
    for block, rows in zip(users.split(num_users), out.split(num_users), strict=True):
        _score_items(rows, Memories.of(table, block), items, weights)
    return out


def _pair_scores(users: Tensor, items: Tensor, table: FactTable, weights: Weights) -> Tensor:
    memories = Memories.of(table, users)
    rows = weights.entities.index_select(0, items.index_select(0, memories.order))
    scores = read_memories(memories, rows, _keys(memories, weights), weights).scores()
    return torch.empty_like(scores).index_copy_(0, memories.order, scores)


def _score_items(
    out: Tensor,  # (B, sum of n), written
    memories: Memories,
    items: tuple[Tensor, ...],  # (n, d) each
    weights: Weights,
) -> None:
    keys, slots = _keys(memories, weights), memories.slots
    shape = (*slots.shape, -1)
    pair, tail = (
        column.index_select(0, slots.view(-1)) for column in (memories.pair, memories.tail)
    )
    slot_keys = keys.index_select(0, pair).view(shape)  # (U, n_hop, n_memory, d)
    slot_tails = weights.entities.index_select(0, tail).view(shape)
    widths = [len(block) for block in items]
    for block, columns in zip(items, out.split(widths, dim=1), strict=True):
        scores = _read_all(block, slot_keys, slot_tails, weights.transform)
        columns.index_copy_(0, memories.order, scores.index_select(0, memories.user))


def _read_all(
    items: Tensor,  # (n, d)
    keys: Tensor,  # (U, n_hop, n_memory, d)
    tails: Tensor,  # (U, n_hop, n_memory, d)
    transform: Tensor,  # (d, d)
) -> Tensor:
    """Scores (U, n) of every user with every item."""
    state = _State(items, keys.new_empty(len(keys), 0, len(items)), tails[:, 0, :0])
    for hop in range(keys.shape[1]):
        p = torch.softmax(state.products(keys[:, hop]), dim=1)
        state = _State(
            state.base @ transform.t(),
            torch.cat([state.p, p], dim=1),
            torch.cat([state.carried, tails[:, hop]], dim=1) @ transform.t(),
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
