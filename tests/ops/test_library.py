"""The reference's product, which a library computes: any pointers, and a matrix as it wants it."""

from __future__ import annotations

import pytest
import torch
from test_spmm import csr, layouts_of_columns

from helpers.operators import DEVICES, DTYPES
from recbole_tinykg.ops import reference
from recbole_tinykg.ops.reference import library

NUM_ROWS, NUM_COLUMNS, WIDTH = 9, 8, 5


@pytest.fixture(autouse=True)
def check_invariants():
    """Have everything checked that a library takes for granted."""
    with torch.sparse.check_sparse_tensor_invariants():
        yield


def pointers(crow):
    """Yield pointers of rows: all, all with a stride, some from within the entries, none."""
    yield crow, slice(0, NUM_ROWS)
    yield crow.repeat_interleave(3)[::3], slice(0, NUM_ROWS)
    yield crow[2:7], slice(2, 6)
    yield torch.stack((crow, crow), 1)[3:, 0], slice(3, NUM_ROWS)
    yield crow[4:5], slice(4, 4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_pointers_equal_the_dense_product(dtype, index_dtype, device):
    """Sums of at most 30 products of numbers below 5: 30 roundings of numbers below 150."""
    (crow, col, values), matrix = csr(NUM_ROWS, NUM_COLUMNS, 30, index_dtype, dtype, device)
    x = torch.randn(NUM_COLUMNS, WIDTH, dtype=torch.float64).clamp(-5, 5).to(dtype)
    tolerance = 150 * torch.finfo(dtype).eps
    for own, rows in pointers(crow):
        expected = matrix[rows] @ x.double()
        start = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
        for dense, out in zip(layouts_of_columns(x), layouts_of_columns(start), strict=True):
            lists = (own, *(t.repeat_interleave(2)[::2] for t in (col, values)))
            dense, out = dense.to(device), out.to(device)
            product = reference.spmm(*lists, dense).cpu().double()
            torch.testing.assert_close(product, expected, rtol=0, atol=tolerance)
            reference.spmm_add_(out, *lists, dense)
            total = start.double() + expected
            torch.testing.assert_close(out.cpu().double(), total, rtol=0, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_places_of_any_pointers_equal_the_dense_product(dtype, index_dtype, device):
    (crow, col, values), matrix = csr(NUM_ROWS, NUM_COLUMNS, 30, index_dtype, dtype, device)
    places = torch.tensor([2, -1, 0, 1, -1, 3, 2, -1], dtype=torch.int32)
    x = torch.randn(4, WIDTH, dtype=torch.float64).clamp(-5, 5).to(dtype)
    spread = torch.cat([x, x.new_zeros(1, WIDTH)]).double()[places.long()]
    tolerance = 150 * torch.finfo(dtype).eps
    for own, of_rows in pointers(crow):
        count = len(own) - 1
        rows = torch.tensor([-1, *range(count), -1, *reversed(range(count))])
        expected = matrix[of_rows][rows] if count else torch.zeros(2, NUM_COLUMNS)
        expected = (expected.double() * (rows >= 0)[:, None]) @ spread
        given = {"rows": rows.repeat_interleave(2)[::2], "places": places}
        given = {name: list_.to(device) for name, list_ in given.items()}
        product = reference.spmm(own, col, values, x.to(device), **given).cpu().double()
        torch.testing.assert_close(product, expected, rtol=0, atol=tolerance)


def test_the_matrix_is_what_libraries_take():
    crow, col, values = torch.arange(2, 15)[::3], torch.randint(7, (15,)), torch.rand(30)[::2]
    matrix = library.library_matrix(crow, col.int(), values, 7)
    assert matrix.crow_indices().tolist() == [0, 3, 6, 9, 12]
    assert torch.equal(matrix.col_indices(), col[2:14])
    assert torch.equal(matrix.values(), values[2:14])
    parts = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    assert all(part.is_contiguous() for part in parts)


CROW, COL, VALUES = torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.ones(2)
BROKEN = {
    "crow must be a contiguous list": (torch.tensor([0, 9, 1, 9, 2])[::2], COL, VALUES),
    "values must be a contiguous list": (CROW, COL, torch.ones(4)[::2]),
    "col must have crow's type": (CROW, COL.int(), VALUES),
    "as many numbers as values": (CROW, COL, VALUES[:1]),
    "crow must rise from 0": (CROW + 1, COL, VALUES),
    "to the number of entries, 2": (torch.tensor([0, 2, 1]), COL, VALUES),
    "col must hold columns": (CROW, COL + 1, VALUES),
}


@pytest.mark.parametrize("message", BROKEN)
def test_the_check_finds_what_libraries_do_not_take(message):
    library._check(CROW, COL, VALUES, 3)
    with pytest.raises(RuntimeError, match=message):
        library._check(*BROKEN[message], 3)


def test_a_copy_is_made_only_of_a_matrix_that_libraries_do_not_take():
    x = torch.randn(4, 6)
    assert library.library_dense(x) is x
    part = x[:, 1:3]
    assert library.library_dense(part) is part
    for other in (x.t(), x[:1].expand(4, 6), x[:, ::2]):
        copy = library.library_dense(other)
        assert copy.is_contiguous()
        assert torch.equal(copy, other)
