"""Row pointers and places of rows, by hand."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.graph.csr import row_places, row_pointers


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_pointers_begin_at_zero_and_end_at_the_number_of_entries(dtype):
    pointers = row_pointers(torch.tensor([2, 0, 3]), dtype)
    assert pointers.tolist() == [0, 2, 2, 5] and pointers.dtype == dtype
    assert row_pointers(torch.zeros(0, dtype=torch.int64)).tolist() == [0]


def test_places_are_those_of_the_rows_that_are_there():
    rows = torch.tensor([3, -1, 0, -1])
    assert row_places(rows, 5).tolist() == [2, -1, -1, 0, -1]
    assert row_places(rows[:0], 2).tolist() == [-1, -1]
