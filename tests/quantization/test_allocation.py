"""The knapsack finds what trying everything finds."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_tinykg.quantization.allocation import Option, choose_options, fewest_bytes

options = st.lists(
    st.builds(Option, st.integers(0, 40), st.integers(0, 1000).map(float)), min_size=1, max_size=5
)


def total(maps, choice) -> Option:
    chosen = [own[i] for own, i in zip(maps, choice, strict=True)]
    return Option(sum(o.num_bytes for o in chosen), sum(o.variance for o in chosen))


def least_variance(maps, budget) -> float | None:
    """By trying every choice."""
    choices = itertools.product(*(range(len(own)) for own in maps))
    totals = [total(maps, choice) for choice in choices]
    return min((t.variance for t in totals if t.num_bytes <= budget), default=None)


@given(st.lists(options, max_size=5), st.integers(0, 150))
def test_no_choice_within_the_budget_is_better(maps, budget):
    choice = choose_options(maps, budget)
    if choice is None:
        assert least_variance(maps, budget) is None
    else:
        assert total(maps, choice).num_bytes <= budget
        assert total(maps, choice).variance == least_variance(maps, budget)


def test_greedy_choice_by_variance_per_byte_would_miss_the_best():
    small, large = [Option(0, 10.0), Option(4, 5.0)], [Option(0, 10.0), Option(5, 4.0)]
    assert choose_options([small, large], 5) == [0, 1]  # the other has more variance per byte


@pytest.mark.parametrize(("budget", "fits"), [(29, False), (30, True)])
def test_smallest_budget_that_works(budget, fits):
    maps = [[Option(30, 0.0), Option(10, 1.0)], [Option(20, 2.0)]]
    assert fewest_bytes(maps) == 30
    assert (choose_options(maps, budget) is not None) == fits


def test_without_maps_there_is_nothing_to_choose():
    assert choose_options([], 0) == []
    assert choose_options([], -1) is None


def test_forty_maps_take_a_moment():
    draw = random.Random(0)
    maps = []
    for _ in range(40):
        size, variance = draw.randint(10_000, 10_000_000), draw.random()
        maps.append([Option(size * bits, variance / (2**bits - 1) ** 2) for bits in (1, 2, 4, 8)])
    budget = 3 * fewest_bytes(maps)
    choice = choose_options(maps, budget)
    assert 0.999 * budget < total(maps, choice).num_bytes <= budget
