"""What a batch of users remembers: each distinct fact, and each distinct (head, relation), once.

The `ripple_sets` of RippleNet are row numbers in a table of facts that is sorted by relation, head
and tail. One sort of the fact numbers of the batch's unique users therefore gives everything in the
order in which it is needed: facts, and the *pairs* (head, relation) that share a product with a
relation's matrix.

A *slot* is a place in the memory of a unique user. A *reading* is a slot read for a row of the
batch: there are B * n_hop * n_memory, and they never get an embedding each.

How many users, facts and pairs a batch has is known when they have been counted, for which a GPU
would have to be waited for. With `most_pairs`, the number of pairs in the whole table, each gets as
many places as there can be: min(B, n_users) users, as many facts as those have slots or the table
has facts, and as many pairs as facts or `most_pairs`. Places that are left repeat the last user,
fact or pair, so that all stays sorted; no row of the batch reads them, and their counts are 0.
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

    U users, facts and pairs are the distinct ones of the batch, then places that are left.

    Attributes:
        order: (B,) int64 rows of the batch by user.
        user: (B,) int64 number of each row's user among the unique ones, in that order.
        rows_per_user: (U,) int64.
        slots: (U, n_hop, n_memory) int32 fact in each slot, counted among the batch's facts.
        slot_order: (U * n_hop * n_memory,) int64 slots by fact.
        slot_bounds: (facts + 1,) first slot of each fact in that order, and the number of slots.
        tail: (facts,) int32 entity.
        pair: (facts,) int32 pair of each fact, ascending.
        fact_bounds: (pairs + 1,) int32 first fact of each pair, and the number of facts.
        head: (pairs,) int32 entity.
        relation: (pairs,) int32, ascending.
    """

    order: Tensor
    user: Tensor
    rows_per_user: Tensor
    slots: Tensor
    slot_order: Tensor
    slot_bounds: Tensor
    tail: Tensor
    pair: Tensor
    fact_bounds: Tensor
    head: Tensor
    relation: Tensor

    @classmethod
    def from_users(cls, table: FactTable, users: Tensor, most_pairs: int | None = None) -> Memories:
        """Look up the memories of users (B,); with `most_pairs`, shapes follow from B alone."""
        is_static, num_users = most_pairs is not None, len(table.memory)
        sorted_users, order = torch.sort(users)
        unique, user, row_bounds = _distinct(sorted_users, num_users if is_static else None)
        memory = table.memory.index_select(0, unique)
        sorted_facts, slot_order = torch.sort(memory.view(-1))
        facts, place, slot_bounds = _distinct(sorted_facts, len(table.head) if is_static else None)
        slots = torch.empty_like(sorted_facts)
        slots.scatter_(0, slot_order, place.int())
        head, relation, tail = (column.index_select(0, facts) for column in table[1:])
        pair, fact_bounds, first = distinct_pairs(head, relation, most_pairs)
        return cls(
            order,
            user,
            row_bounds.diff(),
            slots.view_as(memory),
            slot_order,
            slot_bounds,
            tail,
            pair,
            fact_bounds,
            head.index_select(0, first),
            relation.index_select(0, first),
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

    def readings(self) -> ReadingsByFact:
        """Return the readings by fact: each slot is read once per row of its user."""
        _, num_hops, num_memory = self.slots.shape
        size = num_hops * num_memory
        user, within = self.slot_order // size, self.slot_order % size
        count = self.rows_per_user.index_select(0, user)
        stop = count.cumsum(0)
        slot = torch.repeat_interleave(count, output_size=len(self.user) * size)
        first_row = self.rows_per_user.cumsum(0) - self.rows_per_user
        first = first_row.index_select(0, user) - (stop - count)
        row = torch.arange(len(slot), device=slot.device) + first.index_select(0, slot)
        within = within.index_select(0, slot)
        ends = stop.index_select(0, self.slot_bounds[1:] - 1)
        fact_start = torch.cat([ends.new_zeros(1), ends]).int()
        return ReadingsByFact(
            fact_start,
            fact_start.index_select(0, self.fact_bounds),
            (row * num_hops + within // num_memory).int(),
            row * size + within,
        )


def distinct_pairs(
    head: Tensor,  # (F,) of sorted facts
    relation: Tensor,  # (F,)
    most_pairs: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pair (F,) int32 of each fact, where each begins (P + 1,), and a fact of each (P,).

    Places that are left, with `most_pairs`, begin at F, and their fact is the last.
    """
    is_first = torch.ones_like(head, dtype=torch.bool)
    is_first[1:] = (head[1:] != head[:-1]) | (relation[1:] != relation[:-1])
    pair = is_first.cumsum(0, dtype=torch.int32) - 1
    if most_pairs is None:
        first = is_first.nonzero().view(-1)
        return pair, torch.cat([first, first.new_full((1,), len(pair))]).int(), first
    bounds = _bounds(pair, min(most_pairs, len(pair)))
    return pair, bounds, bounds[:-1].clamp(max=len(pair) - 1)


def _distinct(ordered: Tensor, most: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct ones of sorted numbers (N,), the place of each, and where each begins.

    There are as many as there can be, min(N, most), unless that is None.
    """
    if most is None:
        numbers, place, counts = torch.unique_consecutive(
            ordered, return_inverse=True, return_counts=True
        )
        return numbers, place, row_pointers(counts, torch.int64)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    place = is_first.cumsum(0) - 1
    bounds = _bounds(place, min(most, len(ordered)))
    return ordered.index_select(0, bounds[:-1].clamp(max=len(ordered) - 1)), place, bounds


def _bounds(place: Tensor, num_places: int) -> Tensor:
    """Return where each place (num_places + 1,) int32 begins in sorted ones (N,); the last is N."""
    numbers = torch.arange(num_places + 1, dtype=place.dtype, device=place.device)
    return torch.searchsorted(place, numbers, out_int32=True)
