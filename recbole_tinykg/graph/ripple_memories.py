"""What a batch of users remembers: each distinct fact, and each distinct (head, relation), once.

The `ripple_sets` of RippleNet are row numbers in a table of facts that is sorted by relation, head
and tail. One sort of the fact numbers of the batch's unique users therefore gives everything in the
order in which it is needed: facts, and the *pairs* (head, relation) that share a product with a
relation's matrix.

A *slot* is a place in the memory of a unique user. A *reading* is a slot read for a row of the
batch: there are B * n_hop * n_memory, and they never get an embedding each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg.graph.csr import row_pointers


class FactTable(NamedTuple):
    """The ripple sets of all users, int32."""

    memory: Tensor  # (n_users, n_hop, n_memory) rows of the columns below
    head: Tensor  # (F,) of facts sorted by relation, then head, then tail
    relation: Tensor  # (F,)
    tail: Tensor  # (F,)


class ReadingsByFact(NamedTuple):
    """The readings of each fact, and of each pair, as rows of a CSR matrix.

    Its columns are the rows (b, hop) of the batch sorted by user.
    """

    fact_start: Tensor  # (facts + 1,) int32
    pair_start: Tensor  # (pairs + 1,) int32
    row: Tensor  # (B * n_hop * n_memory,) int32: b * n_hop + hop
    place: Tensor  # (B * n_hop * n_memory,) int64: place among weights (B, n_hop, n_memory)


@dataclass(frozen=True)
class Memories:
    """The memories of a batch, with its rows in the order of their users.

    Attributes:
        order: (B,) int64 rows of the batch by user.
        user: (B,) int64 number of each row's user among the unique ones, in that order.
        rows_per_user: (U,) int64.
        slots: (U, n_hop, n_memory) int32 fact in each slot, counted among the batch's facts.
        slot_order: (U * n_hop * n_memory,) int64 slots by fact.
        tail: (facts,) int32 entity.
        pair: (facts,) int32 pair of each fact, ascending.
        head: (pairs,) int32 entity.
        relation: (pairs,) int32, ascending.
    """

    order: Tensor
    user: Tensor
    rows_per_user: Tensor
    slots: Tensor
    slot_order: Tensor
    tail: Tensor
    pair: Tensor
    head: Tensor
    relation: Tensor

    @classmethod
    def from_users(cls, table: FactTable, users: Tensor) -> Memories:
        """Look up the memories of users (B,)."""
        sorted_users, order = torch.sort(users)
        unique, user, rows_per_user = torch.unique_consecutive(
            sorted_users, return_inverse=True, return_counts=True
        )
        memory = table.memory.index_select(0, unique)
        sorted_facts, slot_order = torch.sort(memory.view(-1))
        facts, place = torch.unique_consecutive(sorted_facts, return_inverse=True)
        slots = torch.empty_like(sorted_facts)
        slots.scatter_(0, slot_order, place.int())
        head, relation, tail = (column.index_select(0, facts) for column in table[1:])
        pair, head, relation = distinct_pairs(head, relation)
        return cls(
            order,
            user,
            rows_per_user,
            slots.view_as(memory),
            slot_order,
            tail,
            pair,
            head,
            relation,
        )

    def pairs_of(self, hop: int) -> Tensor:
        """Return the pair (B, n_memory) int32 of each reading of a hop."""
        return self._by_row(self.pair, hop)

    def tails_of(self, hop: int) -> Tensor:
        """Return the tail entity (B, n_memory) int32 of each reading of a hop."""
        return self._by_row(self.tail, hop)

    def _by_row(self, column: Tensor, hop: int) -> Tensor:
        slots = self.slots[:, hop]
        values = column.index_select(0, slots.reshape(-1)).view_as(slots)
        return values.index_select(0, self.user)

    def counts(self, dtype: torch.dtype) -> Tensor:
        """Count the readings (n_hop, facts) of each fact in each hop."""
        num_hops, num_facts = self.slots.shape[1], len(self.tail)
        index = self.slots + num_facts * torch.arange(num_hops, device=self.user.device)[:, None]
        weight = self.rows_per_user.to(dtype)[:, None, None].expand_as(self.slots)
        counts = weight.new_zeros(num_hops * num_facts)
        return counts.scatter_add_(0, index.view(-1), weight.reshape(-1)).view(num_hops, num_facts)

    def fact_bounds(self) -> Tensor:
        """Return the first fact (pairs + 1,) int32 of each pair, and the number of facts."""
        return row_pointers(torch.bincount(self.pair, minlength=len(self.head)))

    def readings(self) -> ReadingsByFact:
        """Return the readings by fact: each slot is read once per row of its user."""
        _, num_hops, num_memory = self.slots.shape
        size = num_hops * num_memory
        user, within = self.slot_order // size, self.slot_order % size
        count = self.rows_per_user.index_select(0, user)
        stop = count.cumsum(0)
        slot = torch.repeat_interleave(count)
        first_row = self.rows_per_user.cumsum(0) - self.rows_per_user
        first = first_row.index_select(0, user) - (stop - count)
        row = torch.arange(len(slot), device=slot.device) + first.index_select(0, slot)
        within = within.index_select(0, slot)
        slots_per_fact = torch.bincount(self.slots.view(-1), minlength=len(self.tail))
        ends = stop.index_select(0, slots_per_fact.cumsum(0) - 1)
        fact_start = torch.cat([ends.new_zeros(1), ends]).int()
        return ReadingsByFact(
            fact_start,
            fact_start.index_select(0, self.fact_bounds()),
            (row * num_hops + within // num_memory).int(),
            row * size + within,
        )


def distinct_pairs(head: Tensor, relation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pair (F,) int32 of each sorted fact, and head and relation (P,) of each pair."""
    is_first = torch.ones_like(head, dtype=torch.bool)
    is_first[1:] = (head[1:] != head[:-1]) | (relation[1:] != relation[:-1])
    first = is_first.nonzero().view(-1)
    pair = is_first.cumsum(0, dtype=torch.int32) - 1
    return pair, head.index_select(0, first), relation.index_select(0, first)
