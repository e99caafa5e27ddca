"""Edges drawn without replacement: exactly as many as asked for, each with the same chance."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg import ops
from recbole_tinykg.functional.kgin.edge_sampling import pack_mask, sample_edges, unpack_mask


def stream(position, seed=2020):
    return torch.tensor([seed, position])


@pytest.mark.parametrize("num_edges", [1, 7, 91631])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_keeps_exactly_as_many_as_asked_for(num_edges, share):
    num_kept = int(num_edges * share)
    assert int(sample_edges(stream(3), num_edges, num_kept).sum()) == num_kept


def test_a_position_draws_the_same_edges_again_and_another_one_others():
    first, again, other = (sample_edges(stream(p), 1000, 500) for p in (5, 5, 6))
    assert torch.equal(first, again)
    assert 200 < int((first & other).sum()) < 300  # 250 expected, sigma 8


def sorted_draw(position, num_edges, num_kept):
    """The draw as it is defined: the smallest keys, ties by their distance from a random edge."""
    noise = ops.random_bits(stream(position), 0, torch.Size((1, num_edges + 2)))[0].tolist()
    first = noise[num_edges] * 2**16 + noise[num_edges + 1]
    order = sorted(range(num_edges), key=lambda e: (noise[e], (e - first) % num_edges))
    kept = torch.zeros(num_edges, dtype=torch.bool)
    kept[order[:num_kept]] = True
    return kept


@pytest.mark.parametrize("num_edges", [1, 2, 7, 40, 3000])
@pytest.mark.parametrize("num_keys", [1, 3, 2**16])
def test_keeps_the_smallest_keys_and_of_ties_the_nearest(num_edges, num_keys, monkeypatch):
    draw = ops.random_bits

    def few_keys(*args):
        noise = draw(*args)
        noise[:, :num_edges] %= num_keys
        return noise

    monkeypatch.setattr(ops, "random_bits", few_keys)
    for position in range(20):
        for num_kept in {0, 1, num_edges // 3, num_edges - 1, num_edges}:
            expected = sorted_draw(position, num_edges, num_kept)
            assert sample_edges(stream(position), num_edges, num_kept).equal(expected)


def count(num_edges, num_kept, draws):
    kept = [sample_edges(stream(p), num_edges, num_kept) for p in range(draws)]
    return torch.stack(kept).double()


def assert_uniform(kept, chance):
    """Each edge's frequency, and that of each two edges together, within six sigma."""
    draws, num_edges = kept.shape
    sigma = (chance * (1 - chance) / draws) ** 0.5
    assert float((kept.mean(0) - chance).abs().max()) < 6 * sigma
    num_kept = chance * num_edges
    both = chance * (num_kept - 1) / (num_edges - 1)
    together = (kept.t() @ kept / draws)[~torch.eye(num_edges, dtype=torch.bool)]
    assert float((together - both).abs().max()) < 6 * (both * (1 - both) / draws) ** 0.5


def test_every_edge_has_the_same_chance():
    assert_uniform(count(40, 12, 3000), 0.3)


def test_ties_at_the_threshold_are_broken_without_preference(monkeypatch):
    """With one key for all edges, the cyclic order from a random edge decides alone."""
    draw = ops.random_bits

    def tied(*args):
        noise = draw(*args)
        noise[:, :40] = 7
        return noise

    monkeypatch.setattr(ops, "random_bits", tied)
    kept = count(40, 12, 3000)
    assert (kept.sum(1) == 12).all()
    sigma = (0.3 * 0.7 / 3000) ** 0.5
    assert float((kept.mean(0) - 0.3).abs().max()) < 6 * sigma


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_survives_packing(dtype):
    mask = sample_edges(stream(1), 1003, 400)
    bits = pack_mask(mask)
    assert bits.nbytes == 126
    assert torch.equal(unpack_mask(bits, 1003, dtype), mask.to(dtype))
