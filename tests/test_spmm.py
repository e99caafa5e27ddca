"""The sparse product against the dense one, for every shape, index type and number type."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg import ops

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
