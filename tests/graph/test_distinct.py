"""Distinct numbers of a batch, with and without shapes that depend on them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_tinykg.graph.distinct import distinct, table_rows


@given(st.lists(st.integers(0, 8), max_size=20), st.integers(9, 12))
def test_both_forms_agree(index, below):
    index = torch.tensor(index, dtype=torch.int64)
    exact, padded = (distinct(index, below, static_shapes=static) for static in (False, True))
    count = len(exact.numbers)
    assert len(padded.numbers) == min(len(index), below)
    assert padded.numbers[:count].equal(exact.numbers)
    assert (padded.numbers[count:] == -1).all()
    assert padded.places.equal(exact.places)
    assert padded.numbers.index_select(0, padded.places).equal(index)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_numbers_keep_their_type(static_shapes):
    found = distinct(torch.tensor([3, 1, 3]), 5, static_shapes=static_shapes)
    assert found.numbers.dtype == found.places.dtype == torch.int64


def test_a_row_of_minus_one_is_the_first():
    table = torch.arange(6.0).view(3, 2)
    assert table_rows(table, torch.tensor([2, -1])).equal(table[[2, 0]])
