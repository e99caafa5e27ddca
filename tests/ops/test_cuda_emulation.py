"""The CUDA kernels without a GPU: their source, run on the CPU, gives the bits of the reference.

`cuda_emulation` runs the threads of a block as coroutines. Kernels, launch shapes and argument
checks are those of `csrc/cuda`; streams and devices need a GPU (`test_cuda_kernels.py`). The sparse
product is in `test_cuda_emulation_spmm.py`.
"""

from __future__ import annotations

import ctypes
import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_normalize import EPS
from test_normalize import rows as rows_to_normalize

from helpers.cuda_emulation import build, loaded, needs_compiler
from helpers.operators import (
    BITS,
    DTYPES,
    assert_same_bits,
    difficult_rows,
    layouts,
    rows_between_steps,
)
from recbole_tinykg.ops import reference
from recbole_tinykg.quantization import stream

STEMS = ["activation", "dequantize", "normalize", "quantize"]
COLUMNS = [1, 7, 8, 12, 16, 24, 33, 64, 100, 176, 255, 256, 257, 520, 600]
SLOPE = 0.2
NOISE = stream(-7, 2**35)

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """Return the operators of `csrc/cuda`, running on CPU tensors."""
    library = build(tmp_path_factory.mktemp("cuda_emulation"), *STEMS)
    with loaded(library) as operators:
        yield operators


def inside(x, margin=3):
    """Return the same numbers as a window of a larger matrix, and that matrix."""
    num_rows, num_columns = x.shape
    around = torch.full((num_rows + 2, num_columns + 2 * margin), 7.0, dtype=x.dtype)
    window = around[1:-1, margin:-margin]
    window.copy_(x)
    return window, around


def assert_quantizers_agree(emulated, x, noise=NOISE, first_row=0, bits=BITS):
    for num_bits, stochastic in itertools.product(bits, (True, False)):
        options = {"bits": num_bits, "stochastic": stochastic, "first_row": first_row}
        kept = reference.quantize(x, noise, **options)
        assert_same_bits(emulated.quantize(x, noise, **options), kept)
        options = {"bits": num_bits, "num_columns": x.shape[1], "dtype": x.dtype}
        back = reference.dequantize(*kept, **options)
        assert_same_bits(emulated.dequantize(*kept, **options), back)


def assert_activations_agree(emulated, x, addend, noise=NOISE, first_row=0):
    mask = reference.sign_mask(x)
    assert_same_bits(emulated.sign_mask(x), mask)
    slope = {"negative_slope": SLOPE}
    expected = reference.leaky_relu_backward(x, mask, **slope)
    assert_same_bits(emulated.leaky_relu_backward(x, mask, **slope), expected)
    for probability in (0.0, 0.3, 1.0):
        options = {"probability": probability, "first_row": first_row}
        expected = reference.dropout(x, noise, **options)
        assert_same_bits(emulated.dropout(x, noise, **options), expected)
        backward = reference.leaky_relu_dropout_backward(x, mask, noise, **slope, **options)
        got = emulated.leaky_relu_dropout_backward(x, mask, noise, **slope, **options)
        assert_same_bits(got, backward)
        for added in (None, addend):
            (left, all_left), (right, all_right) = inside(x), inside(x)
            expected = reference.leaky_relu_dropout_(left, noise, added, **slope, **options)
            got = emulated.leaky_relu_dropout_(right, noise, added, **slope, **options)
            assert_same_bits((got, all_right), (expected, all_left))


def assert_in_place_forms_agree(emulated, x, bits, transposed=False):
    """Compare also what lies around `out`, which may not change."""
    kept = reference.quantize(x, NOISE, bits=bits)
    index = torch.randperm(x.shape[0] + 4, generator=torch.Generator().manual_seed(0))
    index = index[: x.shape[0]]
    before = torch.ones(x.shape[0] + 4, x.shape[1], dtype=x.dtype)
    for name, out, *more in (
        ("dequantize_", x),
        ("dequantize_add_", x),
        ("dequantize_add_", before, index),
        ("dequantize_add_", before, torch.stack((index, index), dim=1)[:, 0]),
    ):
        (left, all_left), (right, all_right) = inside(out), inside(out)
        if transposed:
            all_left, all_right = left.t().contiguous(), right.t().contiguous()
            left, right = all_left.t(), all_right.t()
        getattr(reference, name)(left, *kept, *more, bits=bits)
        getattr(emulated, name)(right, *kept, *more, bits=bits)
        assert_same_bits(all_right, all_left)


@pytest.mark.parametrize("num_columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantizers_equal_the_reference(emulated, dtype, num_columns):
    for x in layouts(difficult_rows(dtype, num_columns)):
        assert_quantizers_agree(emulated, x, first_row=2**33)


@pytest.mark.parametrize("num_columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_equal_the_reference(emulated, dtype, num_columns):
    x = difficult_rows(dtype, num_columns)
    for view in layouts(x):
        assert_activations_agree(emulated, view, x.flip(0), first_row=2**33)


@pytest.mark.parametrize("num_columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place_forms_equal_the_reference_and_touch_nothing_else(emulated, dtype, num_columns):
    x = difficult_rows(dtype, num_columns)
    for bits, transposed in itertools.product(BITS, (False, True)):
        assert_in_place_forms_agree(emulated, x, bits, transposed)


@pytest.mark.parametrize("num_columns", [*COLUMNS, 1000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalization_equals_the_reference_to_rounding(emulated, dtype, num_columns):
    """The bound of `test_normalize.py`, against the reference in float64."""
    parts = grad, x, shrink = rows_to_normalize(num_columns, dtype)
    wide = [part.double() for part in parts]
    expected = reference.normalize_backward(*wide, eps=EPS)
    size = (wide[0].norm(dim=1) + wide[2]) / wide[1].norm(dim=1).clamp_min(EPS)
    work = torch.finfo(reference.compute_dtype(dtype)).eps * (num_columns / 16 + 14)
    tolerance = size * (work + torch.finfo(dtype).eps)
    finite = tolerance < torch.finfo(dtype).max
    for matrix in layouts(x):
        if matrix.equal(x):
            got = emulated.normalize_backward(grad, matrix, shrink, eps=EPS)
            error = (got.double() - expected).norm(dim=1)
            assert (error <= tolerance)[finite].all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_matrices_pass_through(emulated, dtype, shape):
    x = torch.empty(shape, dtype=dtype)
    assert_quantizers_agree(emulated, x)
    assert_activations_agree(emulated, x, x)


@pytest.mark.parametrize("num_columns", [1, 40, 300])
def test_more_rows_than_a_launch_has_blocks(emulated, num_columns):
    x = torch.randn(70_000 // num_columns + 1, num_columns)
    assert_quantizers_agree(emulated, x, bits=[2])
    assert_activations_agree(emulated, x, x)


def test_largest_value_never_rounds_past_the_last_code(emulated):
    """15 of these million draws would; see the test of that name in `test_quantize.py`."""
    x = torch.full((4000, 256), 255 * (1 + 39 / 128))
    x[:, 0] = 0
    codes = emulated.quantize(x, stream(0, 0), bits=8)[0]
    assert (codes[:, 1:] == 255).all()


@pytest.mark.parametrize("bits", BITS)
def test_a_million_draws_round_as_the_reference(emulated, bits):
    """Some of them meet a threshold to the last bit."""
    x = torch.rand(4000, 256, generator=torch.Generator().manual_seed(bits))
    expected = reference.quantize(x, NOISE, bits=bits)
    assert_same_bits(emulated.quantize(x, NOISE, bits=bits), expected)


@pytest.mark.parametrize("bits", BITS)
def test_ranges_next_to_a_multiple_of_a_step_equal_the_reference(emulated, bits):
    """Division, reciprocal, and the last code are decided by the last bit there."""
    x = rows_between_steps(bits)
    assert_quantizers_agree(emulated, torch.cat((x, 1 - x)), bits=[bits])


def test_one_newton_step_rounds_the_reciprocal_of_every_step():
    """From within two units in the last place, more than a GPU's approximation is off."""
    for mantissa in range(128, 256):
        step = Fraction(mantissa, 128)
        expected = nearest_float(1 / step)
        for error in range(-2, 3):
            start = expected + error * Fraction(1, 2**24 if mantissa > 128 else 2**23)
            rest = nearest_float(1 - step * start)
            assert nearest_float(start + rest * start) == expected


def nearest_float(x):
    """Round a fraction to float32, ties to even; far from the limits of the range."""
    if x == 0:
        return x
    exponent = 24
    while abs(x) * 2**exponent < 2**23:
        exponent += 1
    while abs(x) * 2**exponent >= 2**24:
        exponent -= 1
    return Fraction(round(x * 2**exponent), 1) / 2**exponent


@pytest.mark.parametrize("first_row", [2**29 - 3, 2**29 - 2, 2**32 - 1, 2**33 - 2])
def test_counters_may_cross_a_word(emulated, first_row):
    """8 calls a row: rows 2^29 - 1 and 2^29 have counters below and above 2^32."""
    assert_quantizers_agree(emulated, torch.randn(3, 64), first_row=first_row)


def num_walks():
    """Count the launches of kernels for dense rows so far."""
    path = next(path for path in torch.ops.loaded_libraries if path.endswith("emulated.so"))
    return ctypes.c_int64.in_dll(ctypes.CDLL(path), "num_walks").value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_columns", [16, 24, 64, 176, 600])
@pytest.mark.parametrize("bits", BITS)
def test_dense_rows_take_the_kernels_made_for_them(emulated, bits, num_columns, dtype):
    x, before = torch.randn(5, num_columns, dtype=dtype), num_walks()
    kept = emulated.quantize(x, NOISE, bits=bits)
    emulated.dequantize(*kept, num_columns=num_columns, bits=bits, dtype=dtype)
    emulated.dequantize_(x, *kept, bits=bits)
    emulated.dequantize_add_(x, *kept, bits=bits)
    emulated.dequantize_add_(x, *kept, torch.arange(5), bits=bits)
    assert num_walks() == before + 5
    emulated.quantize(x, NOISE, bits=bits, stochastic=False)
    emulated.quantize(x.double(), NOISE, bits=bits)
    emulated.quantize(x[:, 1:], NOISE, bits=bits)
    assert num_walks() == before + 5


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 70),
    num_columns=st.integers(1, 600),
    offset=st.integers(0, 9),
    gap=st.integers(0, 9),
    bits=st.sampled_from(BITS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_alignment_equals_the_reference(
    emulated, num_rows, num_columns, offset, gap, bits, dtype, seed
):
    generator = torch.Generator().manual_seed(seed)
    storage = torch.randn(offset + num_rows * (num_columns + gap), generator=generator).to(dtype)
    x = storage.as_strided((num_rows, num_columns), (num_columns + gap, 1), offset)
    assert_quantizers_agree(emulated, x, stream(-seed, seed), seed, [bits])
    assert_activations_agree(emulated, x, x, stream(-seed, seed), seed)
    assert_in_place_forms_agree(emulated, x, bits)


def test_kept_parts_may_be_slices_at_any_address(emulated):
    x = torch.randn(9, 21)
    for bits in BITS:
        options = {"bits": bits, "num_columns": 16, "dtype": x.dtype}
        kept = reference.quantize(x[:, :16], NOISE, bits=bits)
        shifted = torch.empty(kept[0].numel() + 1, dtype=torch.uint8)[1:].view_as(kept[0])
        kept = (shifted.copy_(kept[0]), kept[1], kept[2])
        parts = [part[2:7] for part in kept]
        expected = reference.dequantize(*parts, **options)
        assert_same_bits(emulated.dequantize(*parts, **options), expected)
        parts = [part[::2] for part in kept]
        expected = reference.dequantize(*parts, **options)
        assert_same_bits(emulated.dequantize(*parts, **options), expected)


X = torch.zeros(4, 9)
KEPT = reference.quantize(X, NOISE, bits=2)
SIZES = {"num_columns": 9, "bits": 2, "dtype": torch.float32}
REFUSED = {
    "x must be a matrix": lambda ops: ops.quantize(X[0], NOISE, bits=2),
    "bits must be 1, 2, 4 or 8": lambda ops: ops.quantize(X, NOISE, bits=3),
    "stream must have shape": lambda ops: ops.quantize(X, NOISE[:1], bits=2),
    "stream must be int64": lambda ops: ops.dropout(X, NOISE.int(), probability=0.5),
    "floating-point dtype": lambda ops: ops.sign_mask(X.int()),
    "probability must be in": lambda ops: ops.dropout(X, NOISE, probability=-1),
    "mask must be uint8": lambda ops: ops.leaky_relu_backward(X, KEPT[0][:3], negative_slope=0.1),
    "addend must have the shape": lambda ops: ops.leaky_relu_dropout_(
        X.clone(), NOISE, X[1:], negative_slope=0.1, probability=0.5
    ),
    "must fit the number of columns": lambda ops: ops.dequantize(*KEPT, **SIZES | {"bits": 4}),
    "metadata double if and only": lambda ops: ops.dequantize(
        *KEPT, **SIZES | {"dtype": torch.float64}
    ),
    "a row per row of out": lambda ops: ops.dequantize_(X[1:].clone(), *KEPT, bits=2),
    "index must be int64": lambda ops: ops.dequantize_add_(
        X.clone(), *KEPT, torch.arange(4).int(), bits=2
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_corrupt_memory_is_refused(emulated, message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message](emulated)
