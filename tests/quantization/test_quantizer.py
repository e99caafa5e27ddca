"""Quantizer and Quantized: what is kept, how many bytes it takes, what comes back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recbole_tinykg
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.quantization.quantizer import (
    Layout,
    Quantized,
    Quantizer,
    quantize,
    stream,
)

BITS = [1, 2, 4, 8]


def matrix(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("num_columns", [1, 16, 64, 300])
def test_bytes_are_codes_and_six_per_group(bits, num_columns):
    kept = Quantizer(bits).quantize(matrix(10, num_columns), stream(0, 0))
    per_row = math.ceil(num_columns * bits / 8) + 6 * math.ceil(num_columns / 256)
    assert kept.nbytes == 10 * per_row
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in kept.tensors()}
    assert kept.nbytes == sum(t.untyped_storage().nbytes() for t in storages.values())


def test_float64_metadata_takes_sixteen_bytes_per_group():
    kept = Quantizer(2).quantize(matrix(10, 64, dtype=torch.float64), stream(0, 0))
    assert kept.nbytes == 10 * (16 + 16)


@pytest.mark.parametrize("bits", [*BITS, 32])
def test_tensors_and_layout_are_all_there_is(bits):
    kept = Quantizer(bits).quantize(matrix(6, 20), stream(1, 2))
    again = Quantized.unflatten(iter(kept.tensors()), kept.layout)
    assert torch.equal(again.dequantize(), kept.dequantize())
    assert again.nbytes == kept.nbytes


def test_codes_that_follow_each_other_are_rebuilt_one_by_one():
    saved = [Quantizer(bits).quantize(matrix(6, 20), stream(1, bits)) for bits in (2, 32, 8)]
    tensors = iter([tensor for codes in saved for tensor in codes.tensors()])
    for codes in saved:
        again = Quantized.unflatten(tensors, codes.layout)
        assert torch.equal(again.dequantize(), codes.dequantize())
    assert next(tensors, None) is None


def test_uncompressed_is_the_tensor_itself():
    x = matrix(6, 20)
    kept = Quantizer(32).quantize(x, stream(1, 2))
    assert kept.tensors() == (x,)
    assert kept.dequantize() is x
    assert (kept.minimum, kept.step, kept.nbytes) == (None, None, x.nbytes)
    strided = x.t()
    assert Quantizer(32).quantize(strided, stream(1, 2)).codes.is_contiguous()


@pytest.mark.parametrize("bits", [*BITS, 32])
def test_rows_are_a_view_that_dequantizes_to_rows(bits):
    kept = Quantizer(bits).quantize(matrix(9, 300), stream(1, 2))
    whole = kept.dequantize()
    for start, stop in ((0, 9), (2, 5), (4, 4), (7, 9)):
        part = kept.rows(start, stop)
        assert torch.equal(part.dequantize(), whole[start:stop])
        assert part.layout.shape == (stop - start, 300)
        for view, tensor in zip(part.tensors(), kept.tensors(), strict=True):
            assert view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_first_row_continues_the_noise(rounding):
    x = matrix(30, 20)
    quantizer = Quantizer(2, rounding)
    whole = quantizer.quantize(x, stream(3, 4)).dequantize()
    part = quantizer.quantize(x[11:], stream(3, 4), first_row=11).dequantize()
    assert torch.equal(part, whole[11:])


def test_nearest_is_closer_and_ignores_the_stream():
    x = matrix(50, 64)
    nearest = [Quantizer(2, "nearest").quantize(x, stream(0, p)).dequantize() for p in (0, 1)]
    noisy = [Quantizer(2).quantize(x, stream(0, p)).dequantize() for p in (0, 1)]
    assert torch.equal(*nearest)
    assert not torch.equal(*noisy)
    assert (nearest[0] - x).norm() < (noisy[0] - x).norm()


@pytest.mark.parametrize("bits", [0, 3, 16, 64, "2", None])
def test_wrong_bits_are_refused(bits):
    with pytest.raises(ConfigurationError, match=r"bits must be one of 1, 2, 4, 8, 32; got"):
        Quantizer(bits)


def test_wrong_rounding_is_refused():
    with pytest.raises(ConfigurationError, match="stochastic or nearest; got 'up'"):
        Quantizer(2, "up")


@pytest.mark.parametrize(("seed", "position"), [(2**63, 0), (-(2**63) - 1, 0), (0, -1), (0, 2**63)])
def test_stream_that_does_not_fit_is_refused(seed, position):
    with pytest.raises(ValueError, match="must"):
        stream(seed, position)


def test_stream_is_seed_and_position():
    got = stream(-1, 2**62)
    assert got.tolist() == [-1, 2**62]
    assert (got.dtype, got.shape) == (torch.int64, (2,))


@pytest.mark.parametrize("shape", [(7,), (4, 7), (3, 0, 5), (2, 3, 4, 5), (5, 0)])
@pytest.mark.parametrize("bits", [*BITS, 32])
def test_public_quantize_takes_any_rank(shape, bits):
    x = matrix(*shape)
    kept = recbole_tinykg.quantize(x, bits=bits)
    back = kept.dequantize()
    assert (back.shape, back.dtype) == (x.shape, x.dtype)
    rows = math.prod(shape[:-1])
    assert torch.equal(kept.rows(0, rows).dequantize(), back.reshape(rows, shape[-1]))
    assert torch.equal(back, x) or bits < 32


def test_public_quantize_repeats_by_its_seed():
    x = matrix(20, 30)
    a, b, c = (quantize(x, seed=seed).codes for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_public_quantize_is_a_constant_to_autograd():
    x = matrix(4, 8).requires_grad_()
    assert not any(tensor.requires_grad for tensor in quantize(x).tensors())


def test_public_quantize_refuses_scalars_and_integers():
    with pytest.raises(ValueError, match="at least one dimension"):
        quantize(torch.tensor(1.0))
    with pytest.raises(TypeError, match="x must be float16"):
        quantize(torch.tensor([1, 2]))


def test_repr_is_one_line_without_numbers():
    kept = quantize(matrix(10, 64))
    assert repr(kept) == "Quantized(shape=(10, 64), bits=2, dtype=torch.float32, nbytes=220)"


def test_layout_compares_by_value():
    assert Layout(2, 3, torch.float32, (1, 3)) == Layout(2, 3, torch.float32, (1, 3))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=5, max_size=5),
        min_size=1,
        max_size=5,
    ),
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 2**62),
)
def test_what_comes_back_is_within_a_step_of_the_row(rows, bits, seed):
    """A step: range by levels, at most 2**-7 more for bfloat16, at least the smallest normal."""
    x = torch.tensor(rows, dtype=torch.float32)
    back = quantize(x, bits=bits, seed=seed).dequantize().double()
    low, high = x.double().aminmax(dim=1, keepdim=True)
    step = (high - low) / (2**bits - 1) * (1 + 2**-7) + torch.finfo(torch.float32).tiny
    rounding = 4 * torch.finfo(torch.float32).eps * x.double().abs().amax(dim=1, keepdim=True)
    assert ((back - x.double()).abs() <= step + rounding).all()
    assert (back >= low - rounding).all()
