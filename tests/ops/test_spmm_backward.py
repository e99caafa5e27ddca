"""Both gradients of the sparse product against those of the dense one."""

from __future__ import annotations

import re

import pytest
import torch
from test_spmm import SHAPES, csr, layouts_of_columns

from helpers.operators import DEVICES, DTYPES
from recbole_tinykg import ops
from recbole_tinykg.ops import reference


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_equal_those_of_the_dense_product(dtype, index_dtype, shape, device):
    """Sums of at most 20 products below 25, or of `width` of them: as many roundings."""
    num_rows, num_columns, num_entries, width = shape
    (crow, col, values), matrix = csr(
        num_rows, num_columns, num_entries, index_dtype, dtype, device
    )
    dense, start, grad = (
        torch.randn(n, width, dtype=torch.float64).clamp(-5, 5).to(dtype)
        for n in (num_columns, num_columns, num_rows)
    )
    row = torch.repeat_interleave(crow.diff().long().cpu())
    expected = start.double() + matrix.t() @ grad.double()
    products = (grad.double()[row] * dense.double()[col.long().cpu()]).sum(1)
    tolerance = 25 * max(20, width) * torch.finfo(dtype).eps
    for out, x, g in zip(*map(layouts_of_columns, (start, dense, grad)), strict=True):
        out, x, g = (t.to(device) for t in (out, x, g))
        grad_values = ops.spmm_backward_(out, crow, col, values, x, g)
        for ours, theirs in ((out, expected), (grad_values, products)):
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.cpu().double(), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_do_not_depend_on_the_threads(dtype):
    crow, col, values = csr(2000, 500, 60_000, torch.int32, dtype)[0]
    generator = torch.Generator().manual_seed(1)
    x, grad = (
        torch.randn(n, 64, generator=generator, dtype=torch.float64).to(dtype) for n in (500, 2000)
    )
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3, 7):
            torch.set_num_threads(num_threads)
            out = x.clone()
            results.append((ops.spmm_backward_(out, crow, col, values, x, grad), out))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_values_that_are_not_finite_reach_their_rows_only():
    crow, col = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
    values, x = torch.tensor([float("inf"), 1.0]), torch.ones(3, 20)
    x[2] = float("nan")
    out = torch.zeros(3, 20)
    grad_values = ops.spmm_backward_(out, crow, col, values, x, torch.ones(2, 20))
    assert (out[0] == float("inf")).all() and (out[1] == 1).all() and (out[2] == 0).all()
    assert grad_values.tolist() == [20, 20]


POINTERS = "crow must rise from 0 to the number of entries, 2"
OUTSIDE = {
    "a column past the end": ([0, 1, 2], [0, 3], "col must hold rows of dense, which has 3"),
    "a negative column": ([0, 1, 2], [0, -1], "col must hold rows of dense, which has 3"),
    "entries in front": ([1, 1, 2], [0, 1], POINTERS),
    "entries behind": ([0, 1, 1], [0, 1], POINTERS),
    "a falling pointer": ([0, 3, 2], [0, 1], POINTERS),
}


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("case", OUTSIDE)
def test_numbers_out_of_range_are_refused_before_anything_is_written(case, index_dtype):
    *lists, message = OUTSIDE[case]
    crow, col = (torch.tensor(numbers, dtype=index_dtype) for numbers in lists)
    for backward in (ops.spmm_backward_, reference.spmm_backward_):
        out = torch.zeros(3, 20)
        with pytest.raises(RuntimeError, match=re.escape(message)):
            backward(out, crow, col, torch.ones(2), torch.ones(3, 20), torch.ones(2, 20))
        assert not out.any()
