"""Sampled neighbours are neighbours, drawn without replacement where there are enough."""

from __future__ import annotations

import torch

from recbole_tinykg.graph.neighbors import sample_neighbors

# Entity 0 has no triple; 1 has five neighbours; 2 to 6 have one each.
HEADS, RELATIONS = torch.tensor([1, 1, 1, 4, 5]), torch.tensor([1, 2, 1, 3, 3])
TAILS = torch.tensor([2, 3, 6, 1, 1])


def draw(size, seed=0, triples=(HEADS, RELATIONS, TAILS)):
    return sample_neighbors(*triples, 7, size, torch.Generator().manual_seed(seed))


def test_enough_neighbors_are_drawn_without_replacement():
    seen = set()
    for seed in range(40):
        neighbors, relations = draw(3, seed)
        chosen = neighbors[1].tolist()
        assert len(set(chosen)) == 3 and set(chosen) <= {2, 3, 4, 5, 6}
        by_neighbor = {2: 1, 3: 2, 6: 1, 4: 3, 5: 3}
        assert relations[1].tolist() == [by_neighbor[n] for n in chosen]
        seen.add(tuple(sorted(chosen)))
    assert len(seen) == 10, "all subsets of three out of five occur"


def test_every_neighbor_is_drawn_equally_often():
    draws = 3000
    counts = torch.zeros(7)
    for seed in range(draws):
        counts += torch.bincount(draw(2, seed)[0][1].long(), minlength=7)
    share = 2 / 5
    deviation = (draws * share * (1 - share)) ** 0.5
    assert (counts[2:] - draws * share).abs().max() < 5 * deviation


def test_few_neighbors_are_drawn_again():
    neighbors, relations = draw(4)
    assert neighbors[2].tolist() == [1] * 4 and relations[2].tolist() == [1] * 4
    both = draw(8, triples=(torch.tensor([1, 1]), torch.tensor([1, 2]), torch.tensor([2, 3])))[0][1]
    assert set(both.tolist()) == {2, 3}


def test_entities_without_triples_are_their_own_neighbors():
    neighbors, relations = draw(3)
    assert neighbors[0].tolist() == [0] * 3 and relations[0].tolist() == [0] * 3
    none = torch.zeros(0, dtype=torch.int64)
    neighbors, relations = draw(2, triples=(none, none, none))
    assert neighbors.tolist() == [[entity] * 2 for entity in range(7)] and not relations.any()


def test_same_seed_same_neighbors_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second, other = draw(3, 1), draw(3, 1), draw(3, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)
