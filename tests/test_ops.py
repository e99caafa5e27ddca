"""Every operator: kernels against the reference bit for bit, meaning, argument checks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recbole_tinykg import ops, reference
from recbole_tinykg.quantizer import stream

BITS = [1, 2, 4, 8]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PACKAGE = Path(ops.__file__).parent.parent


def bits_of(tensor):
    """The bit patterns, any NaN as one pattern."""
    if not tensor.is_floating_point():
        return tensor
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    pattern = tensor.contiguous().view(integer)
    return pattern.masked_fill(tensor.isnan(), torch.iinfo(integer).max)


def assert_same_bits(left, right):
    left, right = ((x,) if torch.is_tensor(x) else x for x in (left, right))
    for a, b in zip(left, right, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(bits_of(a), bits_of(b))


def difficult_rows(dtype, num_columns):
    """Ordinary, offset, huge, tiny, constant, integer, zero, infinite and NaN rows."""
    generator = torch.Generator().manual_seed(num_columns)
    x = torch.randn(20, num_columns, generator=generator, dtype=torch.float64)
    info = torch.finfo(dtype)
    factors = [1, 1e-3, info.max / 3, info.max / 9, info.tiny, info.tiny * info.eps * 3, 0, 7]
    for row, factor in enumerate(factors):
        x[row] = (x[row] * factor).clamp(-info.max, info.max)
    x[8] = x[8] * 1e-3 + 5
    x[9] = 0.1
    x[10] = -0.0
    x[11] = x[11].round()
    for row, value in ((12, math.nan), (13, math.inf), (14, -math.inf)):
        x[row, num_columns // 2 :] = value
    return x.to(dtype)


def layouts(x):
    """The same numbers contiguous, transposed, with a stride, and one column repeated."""
    yield x
    yield x.t().contiguous().t()
    yield torch.stack((x, -x), dim=2)[:, :, 0]
    yield x[:, :1].expand(-1, x.shape[1])


def assert_all_ops_equal_reference(x, noise, first_row=0):
    """Every quantizing, masking and dropping operator on ``x``, kernel against reference."""
    device = noise.device
    for bits, stochastic in itertools.product(BITS, (True, False)):
        options = {"bits": bits, "stochastic": stochastic, "first_row": first_row}
        kept = reference.quantize(x, noise.cpu(), **options)
        on_device = ops.quantize(x.to(device), noise, **options)
        assert_same_bits([part.cpu() for part in on_device], kept)
        options = {"bits": bits, "num_columns": x.shape[1], "dtype": x.dtype}
        back = ops.dequantize(*on_device, **options)
        assert_same_bits(back.cpu(), reference.dequantize(*kept, **options))
    mask = ops.sign_mask(x.to(device))
    assert_same_bits(mask.cpu(), reference.sign_mask(x))
    slope = 0.2
    assert_same_bits(
        ops.leaky_relu_backward(x.to(device), mask, negative_slope=slope).cpu(),
        reference.leaky_relu_backward(x, mask.cpu(), negative_slope=slope),
    )
    for probability in (0.0, 0.3, 1.0):
        options = {"probability": probability, "first_row": first_row}
        out = ops.dropout(x.to(device), noise, **options)
        assert_same_bits(out.cpu(), reference.dropout(x, noise.cpu(), **options))


def test_native_library_is_loaded():
    """Without it the comparisons below would compare the reference with itself."""
    assert ops.native_status() == (True, str(PACKAGE / "_native_cpu.so"))
    ops.require_native()
    for name in ("quantize", "dequantize", "sign_mask", "leaky_relu_backward", "dropout"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"recbole_tinykg::{name}", "CPU")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_columns", [1, 7, 16, 64, 255, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_equal_the_reference_bit_for_bit(dtype, num_columns, device):
    for x in layouts(difficult_rows(dtype, num_columns)):
        assert_all_ops_equal_reference(x, stream(-7, 2**35, device), first_row=2**33)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_matrices_pass_through_every_operator(dtype, shape):
    assert_all_ops_equal_reference(torch.empty(shape, dtype=dtype), stream(0, 0))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(width=32), min_size=9, max_size=9), min_size=1, max_size=4),
    seed=st.integers(-(2**63), 2**63 - 1),
    position=st.integers(0, 2**63 - 1),
    first_row=st.integers(0, 2**50),
)
def test_any_numbers_and_any_stream_equal_the_reference(rows, seed, position, first_row):
    x = torch.tensor(rows, dtype=torch.float32)
    assert_all_ops_equal_reference(x, stream(seed, position), first_row)


def test_largest_value_never_rounds_past_the_last_code():
    """The step of this range is exact, and (x - minimum) / step is rounded to just above 255.

    Noise of 0 then rounds up, in one draw of 2**16: 15 of the million elements here.
    """
    x = torch.full((4000, 256), 255 * (1 + 39 / 128))
    x[:, 0] = 0
    noise = stream(0, 0)
    kept = ops.quantize(x, noise, bits=8)
    assert_same_bits(kept, reference.quantize(x, noise, bits=8))
    assert (kept[2] * 255 == x[0, 1]).all()
    assert (kept[0][:, 1:] == 255).all()


def test_threads_share_the_work_without_a_trace():
    x, noise = torch.randn(5000, 70), stream(1, 1)
    expected = reference.quantize(x, noise, bits=2)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert_same_bits(ops.quantize(x, noise, bits=2), expected)
    finally:
        torch.set_num_threads(threads)


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    x, noise = torch.randn(5, 9, generator=torch.Generator()), stream(1, 1)
    ops.quantize(x, noise, bits=2)
    ops.dropout(x, noise, probability=0.5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sign_mask_is_numpys_packing(dtype):
    x = difficult_rows(dtype, 21)
    expected = np.packbits((x > 0).numpy(), axis=1, bitorder="little")
    assert ops.sign_mask(x).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.2, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_leaky_relu_backward_is_torchs(dtype, slope):
    x = torch.randn(30, 21, dtype=dtype, requires_grad=True)
    grad = torch.randn(30, 21, dtype=dtype)
    expected = torch.autograd.grad(F.leaky_relu(x, slope), x, grad)[0]
    mask = ops.sign_mask(x.detach())
    got = ops.leaky_relu_backward(grad, mask, negative_slope=slope)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_dropout_of_the_gradient_has_the_mask_of_forward():
    x, grad, noise = torch.ones(50, 30), torch.ones(50, 30), stream(4, 4)
    kept = ops.dropout(x, noise, probability=0.4)
    assert torch.equal(ops.dropout(grad, noise, probability=0.4), kept)
    assert not torch.equal(ops.dropout(x, stream(4, 5), probability=0.4), kept)
    assert torch.equal(ops.dropout(x[20:], noise, probability=0.4, first_row=20), kept[20:])
    assert torch.equal(ops.dropout(x, noise, probability=0.0), x)


X, NOISE = torch.zeros(4, 9), torch.zeros(2, dtype=torch.int64)
CROW, COL, VALUES = torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2)
KEPT = ops.quantize(X, NOISE, bits=2)


def dequantize(codes=KEPT[0], minimum=KEPT[1], step=KEPT[2], **changes):
    keywords = {"num_columns": 9, "bits": 2, "dtype": torch.float32} | changes
    return ops.dequantize(codes, minimum, step, **keywords)


REFUSED = {
    "x must be a matrix (N, D); got shape (4,)": lambda: ops.quantize(X[:, 0], NOISE, bits=2),
    "x must be float16, bfloat16, float32 or float64; got torch.int64": lambda: ops.quantize(
        X.long(), NOISE, bits=2
    ),
    "bits must be one of 1, 2, 4, 8; got 3": lambda: ops.quantize(X, NOISE, bits=3),
    "stream must have shape (2,); got (3,)": lambda: ops.quantize(
        X, torch.zeros(3, dtype=torch.int64), bits=2
    ),
    "stream must be torch.int64; got torch.int32": lambda: ops.dropout(
        X, NOISE.int(), probability=0.5
    ),
    "stream must be on meta; got cpu": lambda: ops.quantize(X.to("meta"), NOISE, bits=2),
    "first_row must be at least 0; got -1": lambda: ops.quantize(X, NOISE, bits=2, first_row=-1),
    "codes must have shape (4, 2); got (4, 3)": lambda: dequantize(num_columns=8),
    "codes must be torch.uint8; got torch.int32": lambda: dequantize(codes=KEPT[0].int()),
    "minimum must have shape (4, 1); got (3, 1)": lambda: dequantize(minimum=KEPT[1][1:]),
    "minimum must be torch.float64; got torch.float32": lambda: dequantize(dtype=torch.float64),
    "step must be torch.bfloat16; got torch.float32": lambda: dequantize(step=KEPT[2].float()),
    "dtype must be float16, bfloat16, float32 or float64; got torch.int8": lambda: dequantize(
        dtype=torch.int8
    ),
    "mask must have shape (4, 2); got (4, 1)": lambda: ops.leaky_relu_backward(
        X, ops.sign_mask(X[:, :8]), negative_slope=0.1
    ),
    "probability must be in [0, 1]; got 1.5": lambda: ops.dropout(X, NOISE, probability=1.5),
    "crow must have shape (M + 1,); got (0,)": lambda: ops.spmm(CROW[:0], COL, VALUES, X),
    "crow must be int32 or int64; got torch.float32": lambda: ops.spmm(VALUES, COL, VALUES, X),
    "col must be torch.int64; got torch.int32": lambda: ops.spmm(CROW, COL.int(), VALUES, X),
    "col must have shape (E,); got (1, 2)": lambda: ops.spmm(CROW, COL[None], VALUES, X),
    "values must have shape (2,); got (1,)": lambda: ops.spmm(CROW, COL, VALUES[1:], X),
    "values must be torch.float32; got torch.float64": lambda: ops.spmm(
        CROW, COL, VALUES.double(), X
    ),
    "out must have shape (2, 9); got (4, 9)": lambda: ops.spmm_add_(X, CROW, COL, VALUES, X),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(message):
    with pytest.raises((TypeError, ValueError)) as error:
        REFUSED[message]()
    assert str(error.value) == message
