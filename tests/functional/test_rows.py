"""Rows added to rows of a map, or written there."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.functional.rows import add_rows_, write_distinct_rows_


def test_repeated_rows_add_up():
    out = add_rows_(torch.ones(3, 2), torch.tensor([2, 0, 2], dtype=torch.int32), torch.ones(3, 2))
    assert out.tolist() == [[2, 2], [1, 1], [3, 3]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_distinct_rows_are_written_and_places_that_are_left_change_nothing(dtype):
    rows = torch.arange(1.0, 9.0).view(4, 2)
    numbers = torch.tensor([1, 3, 4], dtype=dtype)
    exact = write_distinct_rows_(torch.zeros(5, 2), numbers, rows[:3])
    assert exact[numbers.long()].equal(rows[:3]) and not exact[[0, 2]].any()
    padded = torch.cat([numbers, numbers.new_full((2,), -1)])
    rows = torch.cat([rows[:3], torch.zeros(2, 2)])
    static = write_distinct_rows_(torch.zeros(5, 2), padded, rows, static_shapes=True)
    assert static.equal(exact)
