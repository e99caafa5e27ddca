"""Ripple sets: which facts a user may remember, how they are drawn, saved and loaded."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix

from recbole_tinykg.graph import ripple_sets
from recbole_tinykg.graph.ripple_sets import RippleSets, sample
from recbole_tinykg.graph.triples import Triples


def dataset(facts, interactions, num_users=4, num_entities=12, num_relations=4):
    """Make the part of RecBole's `KnowledgeBasedDataset` that ripple sets read."""
    head, relation, tail = np.array(facts).reshape(-1, 3).T
    users, items = np.array(interactions).reshape(-1, 2).T
    matrix = coo_matrix((np.ones(len(users)), (users, items)), (num_users, num_entities))
    return SimpleNamespace(
        head_entities=head,
        relations=relation,
        tail_entities=tail,
        user_num=num_users,
        entity_num=num_entities,
        relation_num=num_relations,
        inter_matrix=lambda form: matrix,
    )


@pytest.fixture
def random_dataset():
    rng = np.random.default_rng(3)
    facts = {(h, r, t) for h, r, t in rng.integers((1, 1, 1), (60, 5, 90), (300, 3)).tolist()}
    interactions = rng.integers((1, 1), (40, 70), (200, 2))
    return dataset(sorted(facts), interactions, 42, 90, 5)


def listed(data, heads):
    """Return the list that RippleNet draws from: facts by head, again if the head occurs again."""
    columns = zip(data.head_entities, data.relations, data.tail_entities, strict=True)
    facts = [tuple(map(int, fact)) for fact in columns]
    return [fact for head in heads for fact in facts if fact[0] == head]


def memory_of(sets, user, hop):
    return list(zip(*(column[user, hop].tolist() for column in sets.triples()), strict=True))


def items_of(data, user):
    matrix = data.inter_matrix(form="coo")
    return matrix.col[matrix.row == user].tolist()


@pytest.mark.parametrize("user_block", [8192, 5])
def test_every_memory_comes_from_its_list(random_dataset, user_block, monkeypatch):
    monkeypatch.setattr(ripple_sets, "USER_BLOCK", user_block)
    sets = sample(random_dataset, 3, 6, seed=1)
    for user in range(random_dataset.user_num):
        heads, previous = items_of(random_dataset, user), [(0, 0, 0)] * 6
        for hop in range(3):
            memory, facts = memory_of(sets, user, hop), listed(random_dataset, heads)
            if not facts:
                assert memory == previous
            elif len(facts) < 6:
                assert set(memory) <= set(facts)
            else:  # a part of the list, with repetitions
                assert all(memory.count(fact) <= facts.count(fact) for fact in memory)
            heads, previous = [tail for _, _, tail in memory], memory


def test_a_list_as_long_as_the_memory_is_the_memory():
    facts = [(1, 1, 7), (1, 2, 8), (2, 1, 9)]
    data = dataset(facts, [(1, 1), (1, 2), (2, 1), (2, 2), (2, 1)])
    assert sorted(memory_of(sample(data, 1, 3, seed=0), 1, 0)) == facts
    repeated = sorted([*facts, *facts[:2]])  # item 1 was taken twice
    assert sorted(memory_of(sample(data, 1, 5, seed=0), 2, 0)) == repeated


@pytest.mark.parametrize("num_memory", [2, 4, 9])
def test_every_place_is_equally_likely(num_memory):
    """20,000 users draw from a list of 6: counts stay within 5 standard deviations."""
    num_users, facts = 20_000, [(1 + i // 2, 1, 5 + i) for i in range(6)]
    interactions = [(user, item) for user in range(num_users) for item in (1, 2, 3)]
    sets = sample(dataset(facts, interactions, num_users), 1, num_memory, seed=4)
    counts = torch.bincount(sets.triples().tail.view(-1), minlength=12)[5:11]
    expected = num_users * num_memory / 6
    assert (counts - expected).abs().max() < 5 * expected**0.5
    if num_memory == 2:  # so are the 15 pairs of places
        low, high = (sets.triples().tail.view(-1, 2) - 5).sort(dim=1).values.unbind(1)
        pairs = torch.bincount(low * 6 + high, minlength=36)
        assert (pairs > 0).sum() == 15
        assert (pairs[pairs > 0] - num_users / 15).abs().max() < 5 * (num_users / 15) ** 0.5


def test_users_without_facts_remember_padding():
    data = dataset([(1, 1, 5)], [(1, 1), (2, 3)])  # user 3 has no item, user 2 none with facts
    sets = sample(data, 2, 4, seed=0)
    for user in (0, 2, 3):
        assert memory_of(sets, user, 0) == memory_of(sets, user, 1) == [(0, 0, 0)] * 4
    assert memory_of(sets, 1, 0) == [(1, 1, 5)] * 4


def test_a_hop_that_runs_dry_repeats_the_hop_before():
    sets = sample(dataset([(1, 1, 5), (1, 2, 6), (5, 3, 7)], [(1, 1)]), 3, 8, seed=0)
    assert memory_of(sets, 1, 1) == [(5, 3, 7)] * 8
    assert memory_of(sets, 1, 2) == memory_of(sets, 1, 1)


@pytest.mark.parametrize("facts", [[], [(9, 1, 9)]], ids=["none", "of no item"])
def test_a_graph_without_facts_of_items_is_padding(facts):
    sets = sample(dataset(facts, [(1, 1)]), 2, 3, seed=0)
    assert not sets.memory.any() and [c.tolist() for c in sets.table[1:]] == [[0]] * 3


def test_a_seed_fixes_the_sets_and_global_streams_are_left_alone(random_dataset):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (sample(random_dataset, 2, 6, seed=s) for s in (1, 1, 2))
    assert all(map(torch.equal, first.triples(), again.triples()))
    assert not all(map(torch.equal, first.triples(), other.triples()))
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_table_is_sorted_and_distinct(random_dataset):
    sets = sample(random_dataset, 2, 6, seed=1)
    rows = list(zip(*(c.tolist() for c in (sets.relation, sets.head, sets.tail)), strict=True))
    assert rows == sorted(set(rows))
    assert all(tensor.dtype == torch.int32 for tensor in sets.table)
    assert not sets.state_dict()


def test_state_goes_round(random_dataset):
    sets, other = (sample(random_dataset, 2, 6, seed=s) for s in (1, 2))
    other.load_state(sets.state())
    assert all(map(torch.equal, sets.table, other.table))


def test_recboles_sets_are_taken():
    sets = sample(dataset([(1, 1, 5)], [(1, 1)]), 2, 3, seed=0)
    hop = tuple(torch.tensor(column) for column in ([4, 5, 6], [1, 2, 3], [7, 8, 9]))
    sets.load_stock({2: [hop, hop]})
    assert memory_of(sets, 2, 0) == memory_of(sets, 2, 1) == [(4, 1, 7), (5, 2, 8), (6, 3, 9)]
    assert memory_of(sets, 1, 0) == [(0, 0, 0)] * 3


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"head": torch.zeros(4, 2, 3)}, "no relation"),
        (dict.fromkeys(Triples._fields, torch.zeros(4, 2, 2)), r"head must have shape \(4, 2, 3\)"),
        (
            dict.fromkeys(Triples._fields, torch.full((4, 2, 3), 4)),
            r"relation must lie in \[0, 4\)",
        ),
    ],
    ids=["missing", "shape", "range"],
)
def test_foreign_sets_are_refused(state, message):
    sets = RippleSets(Triples(*torch.zeros(3, 4, 2, 3, dtype=torch.int64)), 12, 4)
    with pytest.raises(ValueError, match=message):
        sets.load_state(state)


@pytest.mark.parametrize("user", [4, 1])
def test_recboles_sets_of_another_model_are_refused(user):
    sets = RippleSets(Triples(*torch.zeros(3, 4, 2, 3, dtype=torch.int64)), 12, 4)
    hop = (torch.ones(2 + (user == 4), dtype=torch.int64),) * 3
    with pytest.raises(ValueError, match="ripple_set must hold"):
        sets.load_stock({user: [hop, hop]})
