"""The sparse product against the dense one, for every shape, index type and number type."""

from __future__ import annotations

import re

import pytest
import torch

from recbole_tinykg import ops
from recbole_tinykg.ops import reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def csr(num_rows, num_columns, num_entries, index_dtype, dtype, device="cpu"):
    """A random CSR matrix with parallel entries, and the same one dense in float64."""
    generator = torch.Generator().manual_seed(num_entries)
    row = torch.randint(max(num_rows, 1), (num_entries,), generator=generator).sort().values
    col = torch.randint(max(num_columns, 1), (num_entries,), generator=generator)
    values = torch.rand(num_entries, generator=generator, dtype=torch.float64).to(dtype)
    crow = torch.zeros(num_rows + 1, dtype=torch.int64)
    crow[1:] = torch.bincount(row, minlength=num_rows)[:num_rows].cumsum(0)
    dense = torch.zeros(num_rows, num_columns, dtype=torch.float64)
    dense.index_put_((row, col), values.double(), accumulate=True)
    parts = crow.to(index_dtype), col.to(index_dtype), values
    return tuple(part.to(device) for part in parts), dense


SHAPES = [(6, 8, 20, 5), (6, 8, 0, 5), (0, 8, 0, 5), (6, 0, 0, 5), (6, 8, 20, 0), (6, 8, 20, 1)]
WIDTHS = [
    15,
    16,
    17,
    33,
    64,
    130,
]  # around the kernel's vectors of 16 columns and chunks of 4 vectors
SHAPES += [(6, 8, 20, width) for width in WIDTHS]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_spmm_and_spmm_add_equal_the_dense_product(dtype, index_dtype, shape, device):
    """Sums of at most 20 products of numbers below 5: 20 roundings of numbers below 100."""
    num_rows, num_columns, num_entries, width = shape
    matrix, dense = csr(num_rows, num_columns, num_entries, index_dtype, dtype, device)
    x = torch.randn(num_columns, width, dtype=torch.float64).clamp(-5, 5).to(dtype)
    start = torch.randn(num_rows, width, dtype=torch.float64).to(dtype)
    tolerance = 100 * torch.finfo(dtype).eps
    for right, out in zip(layouts_of_columns(x), layouts_of_columns(start), strict=True):
        right, out = right.to(device), out.to(device)
        product = ops.spmm(*matrix, right)
        expected = dense @ x.double()
        torch.testing.assert_close(product.cpu().double(), expected, rtol=0, atol=tolerance)
        assert product.dtype == dtype
        assert ops.spmm_add_(out, *matrix, right) is out
        expected = start.double() + expected
        torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=tolerance)


def layouts_of_columns(x):
    yield x.clone()
    yield x.t().clone(memory_format=torch.contiguous_format).t()
    yield torch.cat((x, x), dim=1)[:, x.shape[1] :]


def test_spmm_ignores_autocast():
    matrix, dense = csr(6, 8, 20, torch.int32, torch.float32)
    x = torch.randn(8, 3)
    expected = (dense @ x.double()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ops.spmm(*matrix, x), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [1, 16, 37, 64])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_places_equal_the_dense_product(dtype, index_dtype, width, device):
    """Row i is row rows[i] of A, or none; column k takes row places[k], or none."""
    matrix, dense = csr(6, 8, 20, index_dtype, dtype, device)
    rows = torch.tensor([5, -1, 0, 0, 3])
    places = torch.tensor([2, -1, 0, 1, -1, 3, 2, -1], dtype=torch.int32)
    x = torch.randn(4, width, dtype=torch.float64).clamp(-5, 5).to(dtype)
    start = torch.randn(5, width, dtype=torch.float64).to(dtype)
    spread = torch.cat([x, x.new_zeros(1, width)]).double()[places.long()]
    expected = (dense[rows] * (rows >= 0)[:, None]) @ spread
    given = {"rows": rows.to(device), "places": places.to(device)}
    tolerance = 100 * torch.finfo(dtype).eps
    product = ops.spmm(*matrix, x.to(device), **given).cpu().double()
    torch.testing.assert_close(product, expected, rtol=0, atol=tolerance)
    out = ops.spmm_add_(start.clone().to(device), *matrix, x.to(device), **given).cpu().double()
    torch.testing.assert_close(out, start.double() + expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("form", ["all", "rows", "places"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_do_not_depend_on_the_threads(dtype, form):
    """One row holds a third of the entries, so that threads get unequal numbers of rows."""
    crow, col, values = csr(2000, 500, 60_000, torch.int32, dtype)[0]
    crow = torch.where(torch.arange(2001) > 700, crow.clamp(min=40_000), crow)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 64, generator=generator, dtype=torch.float64).to(dtype)
    given = {
        "all": {},
        "rows": {"rows": torch.randint(-1, 2000, (900,), generator=generator)},
        "places": {"places": torch.randint(-1, 500, (500,), generator=generator).int()},
    }[form]
    before, products = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3, 7):
            torch.set_num_threads(num_threads)
            products.append(ops.spmm(crow, col, values, x, **given))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(products[0], product) for product in products[1:])


def test_values_that_are_not_finite_reach_their_rows_only():
    crow, col = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 1, 0])
    values = torch.tensor([float("inf"), float("nan"), -0.0])
    out = ops.spmm(crow, col, values, torch.ones(2, 20))
    assert (out[0] == float("inf")).all() and out[1].isnan().all() and (out[2:] == 0).all()
    places = torch.tensor([0, -1], dtype=torch.int32)
    out = ops.spmm(crow, col, values, torch.ones(1, 20), places=places)
    assert (out[0] == float("inf")).all() and (out[1:] == 0).all()


CROW, COL, X = torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.ones(3, 20)
ROWS, PLACES = torch.tensor([1, 0]), torch.tensor([0, 1, 2], dtype=torch.int32)
POINTERS = "crow must rise from 0 or more to the number of entries, 2, or less"
OUTSIDE = {
    "a column past the end": ({"col": COL + 1}, "col must hold rows of dense, which has 3"),
    "a negative column": ({"col": COL - 1}, "col must hold rows of dense, which has 3"),
    "a column past places": (
        {"col": COL + 1, "places": PLACES},
        "col must hold rows of dense, which has 3",
    ),
    "a row": ({"rows": ROWS + 1}, "rows must hold rows of the sparse matrix, which has 2"),
    "a place": ({"places": PLACES + 1}, "places must hold rows of dense, which has 3"),
    "a pointer past the end": ({"crow": torch.tensor([0, 1, 3])}, POINTERS),
    "a negative pointer": ({"crow": torch.tensor([-1, 1, 2])}, POINTERS),
    "a falling pointer": ({"crow": torch.tensor([0, 2, 1])}, POINTERS),
}


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("width", [3, 20])
@pytest.mark.parametrize("case", OUTSIDE)
def test_numbers_out_of_range_are_refused_by_kernel_and_reference(case, width, index_dtype):
    changed, message = OUTSIDE[case]
    given = {"crow": CROW, "col": COL, "rows": None, "places": None, **changed}
    given["crow"], given["col"] = given["crow"].to(index_dtype), given["col"].to(index_dtype)
    for spmm in (ops.spmm, reference.spmm):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            spmm(values=torch.ones(2), dense=X[:, :width], **given)


def test_lists_may_be_strided():
    (crow, col, values), dense = csr(6, 8, 20, torch.int64, torch.float32)
    x = torch.randn(8, 20)
    rows = torch.tensor([4, 9, 2, 9])[::2]
    places = torch.arange(16, dtype=torch.int32).div(2, rounding_mode="floor").int()[::2]
    spaced = [list_.repeat_interleave(2)[::2] for list_ in (crow, col, values)]
    product = ops.spmm(*spaced, x.expand(8, 20), rows=rows, places=places)
    torch.testing.assert_close(product, (dense[[4, 2]] @ x.double()).float())
