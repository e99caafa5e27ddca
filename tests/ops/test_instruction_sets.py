"""The kernels of lesser machines, run on this one: they give the same bits."""

from __future__ import annotations

import ctypes

import pytest
import torch

from helpers.operators import DTYPES, assert_all_ops_equal_reference, difficult_rows, layouts
from recbole_tinykg import ops
from recbole_tinykg.quantization import stream

NAMES = ["portable", "AVX2", "AVX-512"]


def choose(number):
    """Use an instruction set, or the best available if that is less; return the one used."""
    loaded, path = ops.native_status()
    assert loaded, path
    return ctypes.CDLL(path).recbole_tinykg_instruction_set(number)


@pytest.fixture(params=range(len(NAMES)), ids=NAMES)
def instruction_set(request):
    if choose(request.param) != request.param:
        choose(len(NAMES) - 1)
        pytest.skip(f"this processor has no {NAMES[request.param]}")
    yield request.param
    choose(len(NAMES) - 1)


@pytest.mark.parametrize("num_columns", [1, 7, 16, 17, 64, 100, 256, 257, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operators_equal_the_reference(instruction_set, dtype, num_columns):
    for x in layouts(difficult_rows(dtype, num_columns)):
        assert_all_ops_equal_reference(x, stream(-7, 2**35), first_row=2**33)


def sums(dtype):
    """Operators that add many numbers: their order is part of the kernel."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 40, 100, generator=generator, dtype=torch.float64).to(dtype)
    crow = torch.arange(0, 41 * 9, 9, dtype=torch.int32)
    col = torch.randint(40, (360,), generator=generator, dtype=torch.int32)
    values = torch.rand(360, generator=generator, dtype=torch.float64).to(dtype)
    normal = ops.normalize_backward(grad, x, x[:, 0].contiguous(), eps=1e-12)
    product, out = ops.spmm(crow, col, values, x), x.clone()
    return normal, product, ops.spmm_backward_(out, crow, col, values, x, grad), out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_have_one_order(instruction_set, dtype):
    on_this = sums(dtype)
    choose(0)
    for ours, portable in zip(on_this, sums(dtype), strict=True):
        assert torch.equal(ours, portable)
