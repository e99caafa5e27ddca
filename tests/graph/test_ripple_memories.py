"""The memories of a batch, with shapes that depend on its facts and with shapes that do not."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.graph.ripple_memories import Memories
from recbole_tinykg.graph.ripple_sets import RippleSets
from recbole_tinykg.graph.triples import Triples

NUM_USERS, NUM_HOPS, NUM_MEMORY, NUM_ENTITIES, NUM_RELATIONS = 9, 2, 4, 12, 3


@pytest.fixture(params=["many facts", "few facts", "one fact"])
def sets(request):
    generator = torch.Generator().manual_seed(5)
    high = {"many facts": (NUM_ENTITIES, NUM_RELATIONS), "few facts": (2, 2), "one fact": (1, 1)}
    shape = NUM_USERS, NUM_HOPS, NUM_MEMORY
    limits = high[request.param]
    columns = (
        torch.randint(0, limit, shape, generator=generator)
        for limit in (limits[0], limits[1], limits[0])
    )
    return RippleSets(Triples(*columns), NUM_ENTITIES, NUM_RELATIONS)


@pytest.mark.parametrize("users", [[3], [3, 1, 3, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 3]])
def test_static_shapes_leave_places_and_change_nothing_else(sets, users):
    users = torch.tensor(users)
    exact = Memories.from_users(sets.table, users)
    static = Memories.from_users(sets.table, users, sets.num_pairs)
    assert static.order.equal(exact.order) and static.user.equal(exact.user)

    num_users = min(len(users), NUM_USERS)
    num_facts = min(num_users * NUM_HOPS * NUM_MEMORY, len(sets.head))
    num_pairs = min(num_facts, sets.num_pairs)
    sizes = len(static.rows_per_user), len(static.tail), len(static.head)
    assert sizes == (num_users, num_facts, num_pairs)

    own = slice(0, len(exact.rows_per_user))
    assert static.rows_per_user[own].equal(exact.rows_per_user)
    assert not static.rows_per_user[own.stop :].any()
    assert static.slots[own].equal(exact.slots)
    for name in ("tail", "pair", "head", "relation"):
        ours, theirs = getattr(static, name), getattr(exact, name)
        assert ours[: len(theirs)].equal(theirs), name
        assert (ours[len(theirs) :] == theirs[-1]).all(), name
    assert static.fact_bounds[: len(exact.head)].equal(exact.fact_bounds[:-1])
    assert (static.fact_bounds[len(exact.head) :] == num_facts).all()

    counts = static.counts(torch.float64)
    assert counts[:, : len(exact.tail)].equal(exact.counts(torch.float64))
    assert not counts[:, len(exact.tail) :].any()


def test_readings_of_places_that_are_left_are_none(sets):
    users = torch.tensor([3, 1, 3, 8])
    exact = Memories.from_users(sets.table, users)
    static = Memories.from_users(sets.table, users, sets.num_pairs)
    ours, theirs = static.readings(), exact.readings()
    for start, stop in zip(theirs.fact_start, theirs.fact_start[1:], strict=False):  # in any order
        assert ours.place[start:stop].sort().values.equal(theirs.place[start:stop].sort().values)
    assert ours.row.equal((ours.place // NUM_MEMORY).int())
    for starts, own in ((ours.fact_start, theirs.fact_start), (ours.pair_start, theirs.pair_start)):
        assert starts[: len(own)].equal(own)
        assert (starts[len(own) :] == len(ours.row)).all()


def test_number_of_pairs_is_that_of_the_table(sets):
    pairs = {(h, r) for h, r in zip(sets.head.tolist(), sets.relation.tolist(), strict=True)}
    assert sets.num_pairs == len(pairs)
