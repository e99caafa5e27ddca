"""Any numbers, any shape, any strides, any stream: kernels equal the reference bit for bit.

Hypothesis draws the kinds of rows, the shape, the layout and the stream; numbers come from a seeded
generator, so that a matrix of a million elements is one draw.
"""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.operators import (
    BITS,
    DEVICES,
    DTYPES,
    assert_activations_equal_reference,
    assert_all_ops_equal_reference,
    assert_same_bits,
    on,
)
from recbole_tinykg import ops
from recbole_tinykg.ops import reference
from recbole_tinykg.quantization import stream

EXAMPLES = int(os.environ.get("OPERATOR_EXAMPLES", "150"))  # the sanitizers' run takes fewer
CONFIG = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def ordinary(x, info):
    return x


def offset(x, info):
    return x * 1e-3 + 7


def constant(x, info):
    return torch.full_like(x, 0.1)


def whole(x, info):
    return (x * 3).round()


def subnormal(x, info):
    return x * info.tiny / 8


def tiny_range(x, info):
    return x.sign() * info.tiny + x * info.tiny * info.eps * 5


def huge(x, info):
    return (x * info.max).clamp(-info.max, info.max)


def huge_constant(x, info):
    return torch.full_like(x, info.max)


def wide(x, info):
    return (x * info.max / 6).clamp(-info.max, info.max)


def zeros_of_both_signs(x, info):
    return x.sign() * 0.0


def one_outlier(x, info):
    return torch.cat((x[:, :1] * 1e6, x[:, 1:]), dim=1).clamp(-info.max, info.max)


def with_value(value):
    def change(x, info):
        x = x.clone()
        x[:, x.shape[1] // 2] = value
        return x

    change.__name__ = f"with_{value}"
    return change


KINDS = [
    ordinary,
    offset,
    constant,
    whole,
    subnormal,
    tiny_range,
    huge,
    huge_constant,
    wide,
    zeros_of_both_signs,
    one_outlier,
    with_value(torch.nan),
    with_value(torch.inf),
    with_value(-torch.inf),
]


def contiguous(x):
    return x


def transposed(x):
    return x.t().contiguous().t()


def misaligned(x):
    return torch.cat((x[:, :1], x), dim=1)[:, 1:]


def strided(x):
    return torch.stack((-x, x, -x), dim=2)[:, :, 1]


def same_rows(x):
    return x[:1].expand(x.shape)


def same_columns(x):
    return x[:, :1].expand(x.shape)


def every_other_row(x):
    return x.repeat_interleave(2, dim=0)[::2]


LAYOUTS = [
    contiguous,
    transposed,
    misaligned,
    strided,
    same_rows,
    same_columns,
    every_other_row,
]

SHAPES = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(1, 70)),
    st.tuples(st.integers(1, 5), st.integers(200, 1000)),
    st.tuples(st.integers(60, 700), st.integers(1, 20)),
)
STREAMS = st.builds(stream, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1))
FIRST_ROWS = st.one_of(st.just(0), st.integers(0, 2**50))


def matrix(shape, dtype, kinds, seed):
    """Draw rows of these kinds, in turn."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    info = torch.finfo(dtype)
    for i, kind in enumerate(kinds):
        if len(x[i :: len(kinds)]):
            x[i :: len(kinds)] = kind(x[i :: len(kinds)], info)
    return x.to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@CONFIG
@given(
    shape=SHAPES,
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6),
    layout=st.sampled_from(LAYOUTS),
    noise=STREAMS,
    first_row=FIRST_ROWS,
    seed=st.integers(0, 2**31),
)
def test_every_operator(dtype, device, shape, kinds, layout, noise, first_row, seed):
    x = layout(matrix(shape, dtype, kinds, seed))
    assert_all_ops_equal_reference(x, noise.to(device), first_row)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(CONFIG, max_examples=max(2, EXAMPLES // 15))
@given(
    num_rows=st.integers(65_530, 70_000),
    num_columns=st.integers(1, 9),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=14),
    bits=st.sampled_from(BITS),
    noise=STREAMS,
    seed=st.integers(0, 2**31),
)
def test_more_rows_than_a_grid_has_blocks(
    dtype, device, num_rows, num_columns, kinds, bits, noise, seed
):
    x = matrix((num_rows, num_columns), dtype, kinds, seed)
    kept = reference.quantize(x, noise, bits=bits)
    noise = noise.to(device)
    own = ops.quantize(on(noise, x), noise, bits=bits)
    assert_same_bits(own, kept)
    options = {"num_columns": num_columns, "bits": bits, "dtype": dtype}
    assert_same_bits(ops.dequantize(*own, **options), reference.dequantize(*kept, **options))
    assert_activations_equal_reference(x[:66_000], noise)


@CONFIG
@given(
    rows=st.lists(st.lists(st.floats(width=32), min_size=9, max_size=9), min_size=1, max_size=4),
    noise=STREAMS,
    first_row=FIRST_ROWS,
)
def test_numbers_that_hypothesis_thinks_of(rows, noise, first_row):
    assert_all_ops_equal_reference(torch.tensor(rows, dtype=torch.float32), noise, first_row)


def test_kinds_are_what_they_are_called():
    """The generator of the tests above makes the groups it is meant to make."""
    for dtype, kind in itertools.product(DTYPES, KINDS):
        x = matrix((3, 40), dtype, [kind], 0)
        info = torch.finfo(dtype)
        spread = x.double().amax(1) - x.double().amin(1)
        if kind in (huge, wide):
            assert (spread > info.max / 4).any() and x.isfinite().all()
        if kind in (constant, huge_constant, zeros_of_both_signs):
            assert (spread == 0).all()
        if kind is subnormal:
            assert (x.abs() < info.tiny).any()
        if "with_" in kind.__name__:
            assert not x.isfinite().all(1).any()
