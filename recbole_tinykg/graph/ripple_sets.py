"""Ripple sets: for every user and hop, a fixed number of facts of the knowledge graph (RippleNet).

The facts of hop h are those whose head is among the user's training items (h = 0) or among the
tails of the memory of hop h - 1; a head that occurs twice lists its facts twice. A user keeps
`n_memory` of them, drawn once: distinct places of the list if it is long enough, else with
replacement. A user whose list is empty at hop 0, or who has no interactions, keeps the fact
(0, 0, 0) of the padding entity; a later hop whose list is empty repeats the hop before.

RecBole intends the same, but looks tails up as tensors, which a dictionary never finds, so that
each of its later hops repeats hop 0; and a user without training items is an IndexError. As
results differ, `repeat_first_hop` chooses between RecBole's sets and the paper's.

All users are drawn at once: the lists are never written out, a place in one is found by binary
search among the running sums of the heads' degrees, and distinct places come from Floyd's algorithm
(Bentley & Floyd, CACM 1987), a loop over memory slots. The generator is our own, so that RecBole's
random state stays as it is.

A fact is stored once, in a table sorted by relation, head and tail, and the sets are row numbers in
it: sorting the fact numbers of a batch sorts them by relation too (`ripple_memories`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recbole_tinykg.graph.csr import row_pointers
from recbole_tinykg.graph.from_recbole import knowledge_triples, user_item_pairs
from recbole_tinykg.graph.ripple_memories import FactTable
from recbole_tinykg.graph.triples import Triples

USER_BLOCK = 8192
"""Users drawn at a time."""


class RippleSets(nn.Module):
    """The sets of every user, as non-persistent buffers.

    Args:
        triples: (n_users, n_hop, n_memory) each, int64.
        num_entities: Heads and tails are below it.
        num_relations: Relations are below it.

    Attributes:
        num_pairs: How many distinct pairs of a head and a relation the facts have.
    """

    memory: Tensor  # (n_users, n_hop, n_memory) int32 rows of the table
    head: Tensor  # (F,) int32
    relation: Tensor  # (F,) int32
    tail: Tensor  # (F,) int32

    def __init__(self, triples: Triples, num_entities: int, num_relations: int) -> None:
        super().__init__()
        self.num_entities, self.num_relations = num_entities, num_relations
        self.shape = tuple(triples.head.shape)
        for name in ("memory", "head", "relation", "tail"):
            self.register_buffer(name, torch.empty(0, dtype=torch.int32), persistent=False)
        self.set_triples(triples)

    def set_triples(self, triples: Triples) -> None:
        """Replace the sets with others of the same shape.

        Raises:
            ValueError: A tensor has the wrong shape or a number out of range.
        """
        n = self.num_entities
        limits = n, self.num_relations, n
        for name, column, limit in zip(Triples._fields, triples, limits, strict=True):
            if tuple(column.shape) != self.shape:
                raise ValueError(
                    f"{name} must have shape {self.shape} (users, hops, memory); "
                    f"got {tuple(column.shape)}"
                )
            if column.numel() and not 0 <= int(column.min()) <= int(column.max()) < limit:
                raise ValueError(
                    f"{name} must lie in [0, {limit}); got {int(column.min())} to "
                    f"{int(column.max())}"
                )
        head, relation, tail = (column.to(self.memory.device).long() for column in triples)
        keys, memory = torch.unique((relation * n + head) * n + tail, return_inverse=True)
        pair_keys = keys // n
        self.num_pairs = int((pair_keys[1:] != pair_keys[:-1]).sum()) + min(1, len(keys))
        self.memory = memory.int()
        self.relation = (keys // (n * n)).int()
        self.head = (keys // n % n).int()
        self.tail = (keys % n).int()

    @property
    def table(self) -> FactTable:
        """The sets as compressed functions take them."""
        return FactTable(self.memory, self.head, self.relation, self.tail)

    def triples(self) -> Triples:
        """Return the sets as triples (n_users, n_hop, n_memory), int32."""
        columns = (self.head, self.relation, self.tail)
        return Triples(*(column[self.memory.long()] for column in columns))

    def state(self) -> dict[str, Tensor]:
        """Return the sets as tensors (n_users, n_hop, n_memory) by the names of `Triples`."""
        return self.triples()._asdict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the sets from `state`; ValueError if they belong to another data set or model."""
        missing = [name for name in Triples._fields if name not in state]
        if missing:
            raise ValueError(f"ripple sets must have {', '.join(Triples._fields)}; no {missing[0]}")
        self.set_triples(Triples(*(state[name] for name in Triples._fields)))

    def load_stock(self, ripple_set: Mapping[int, Any]) -> None:
        """Take RecBole's sets: per user, a list over hops of (head, relation, tail) tensors.

        Users for whom RecBole has no set, or an empty one because it was looked up, keep the
        padding fact.
        """
        columns = torch.zeros(3, *self.shape, dtype=torch.int64)
        num_users, *shape = self.shape
        for user, hops in ripple_set.items():
            if not hops:
                continue
            sizes = [len(column) for hop in hops for column in hop]
            if not 0 <= user < num_users or sizes != 3 * shape[0] * [shape[1]]:
                raise ValueError(
                    f"ripple_set must hold {tuple(shape)} (hops, memory) facts of users in "
                    f"[0, {num_users}); got {len(hops)} hops with {sizes} facts of user {user}"
                )
            columns[:, user] = torch.stack([torch.stack(tuple(hop)) for hop in hops], dim=1).cpu()
        self.set_triples(Triples(*columns))


def sample(
    dataset: Any, num_hops: int, num_memory: int, seed: int, *, repeat_first_hop: bool = False
) -> RippleSets:
    """Draw the ripple sets of every user.

    Args:
        dataset: The training split, a RecBole `KnowledgeBasedDataset`.
        num_hops: Hops of every user.
        num_memory: Facts of every hop.
        seed: Seed of the draw.
        repeat_first_hop: Whether every later hop is the first one, as in RecBole.
    """
    head, relation, tail = knowledge_triples(dataset)
    order = torch.argsort(head, stable=True)
    graph = _Graph(_first_entries(head, dataset.entity_num), relation[order], tail[order])
    users, items = user_item_pairs(dataset)
    order = torch.argsort(users, stable=True)
    start = _first_entries(users, dataset.user_num)
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for first in range(0, dataset.user_num, USER_BLOCK):
        own = start[first : first + USER_BLOCK + 1]
        heads = items[order[own[0] : own[-1]]]
        shape = (1 if repeat_first_hop else num_hops, num_memory)
        blocks.append(_sample_block(graph, heads, own.diff(), shape, generator))
    columns = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    triples = Triples(*(column.expand(-1, num_hops, -1) for column in columns))
    return RippleSets(triples, dataset.entity_num, dataset.relation_num)


class _Graph(NamedTuple):
    """Facts sorted by head."""

    start: Tensor  # (n_entities + 1,) first fact of each head
    relation: Tensor  # (E,)
    tail: Tensor  # (E,)


def _first_entries(rows: Tensor, num_rows: int) -> Tensor:
    """Return the row pointers (num_rows + 1,) int64 of entries sorted by row."""
    return row_pointers(torch.bincount(rows, minlength=num_rows), torch.int64)


def _sample_block(
    graph: _Graph,
    heads: Tensor,  # (sum of counts,) items of the first user, then of the second, ...
    counts: Tensor,  # (U,) items per user
    shape: tuple[int, int],
    generator: torch.Generator,
) -> Triples:
    """Draw the sets (U, n_hop, n_memory) of a block of users."""
    num_hops, num_memory = shape
    hops: list[Triples] = []
    previous = Triples(*torch.zeros(3, len(counts), num_memory, dtype=torch.int64))
    for _ in range(num_hops):
        previous = _sample_hop(graph, heads, counts, previous, generator)
        hops.append(previous)
        heads, counts = previous.tail.reshape(-1), torch.full_like(counts, num_memory)
    return Triples(*(torch.stack(columns, dim=1) for columns in zip(*hops, strict=True)))


def _sample_hop(
    graph: _Graph,
    heads: Tensor,  # (sum of counts,)
    counts: Tensor,  # (U,)
    fallback: Triples,  # (U, n_memory): for users whose list is empty
    generator: torch.Generator,
) -> Triples:
    """Draw the memory (U, n_memory) of one hop."""
    first = graph.start[heads]
    bounds = row_pointers(graph.start[heads + 1] - first, torch.int64)  # of heads, in their lists
    ends, bounds = bounds[1:], bounds[row_pointers(counts, torch.int64)]
    lengths = bounds.diff()
    found = lengths.nonzero().view(-1)
    places = _sample_places(lengths[found], fallback.head.shape[1], generator)
    places += bounds[found, None]
    entry = torch.searchsorted(ends, places, right=True)
    fact = graph.start[heads[entry] + 1] - (ends[entry] - places)
    sampled = Triples(heads[entry], graph.relation[fact], graph.tail[fact])
    return Triples(
        *(old.index_copy(0, found, new) for old, new in zip(fallback, sampled, strict=True))
    )


def _sample_places(lengths: Tensor, num_places: int, generator: torch.Generator) -> Tensor:
    """Draw places (U, num_places) below lengths (U,) > 0, distinct where there are enough of them.

    Floyd's algorithm: slot i draws from [0, n - num_places + i]; what was drawn before becomes the
    end of that range, which no earlier slot could draw.
    """
    uniform = torch.rand(len(lengths), num_places, generator=generator, dtype=torch.float64)
    enough = lengths >= num_places
    last = torch.where(
        enough[:, None],
        lengths[:, None] - num_places + torch.arange(num_places),
        lengths[:, None] - 1,
    )
    places = torch.minimum((uniform * (last + 1)).long(), last)
    for i in range(1, num_places):
        drawn = (places[:, :i] == places[:, i : i + 1]).any(1) & enough
        places[:, i] = torch.where(drawn, last[:, i], places[:, i])
    return places
