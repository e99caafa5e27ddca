"""What the operators' tests share: devices, difficult numbers, layouts, comparison by bits."""

from __future__ import annotations

import itertools
import math

import psutil
import torch

from recbole_tinykg import ops
from recbole_tinykg.ops import reference

BITS = [1, 2, 4, 8]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SLOPE = 0.2


def available_gib():
    """Return the memory that tests may take."""
    return psutil.virtual_memory().available / 2**30


def bits_of(tensor):
    """Return the bit patterns, any NaN as one pattern."""
    if not tensor.is_floating_point():
        return tensor
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    pattern = tensor.contiguous().view(integer)
    return pattern.masked_fill(tensor.isnan(), torch.iinfo(integer).max)


def assert_same_bits(left, right):
    left, right = ((x,) if torch.is_tensor(x) else x for x in (left, right))
    for a, b in zip(left, right, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(bits_of(a.cpu()), bits_of(b.cpu()))


def difficult_rows(dtype, num_columns):
    """Draw ordinary, offset, huge, tiny, constant, integer, zero, infinite and NaN rows."""
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


def rows_between_steps(bits):  # (8960, 8) float32
    """Return a row per step and error: its range is levels · step and up to 3 units more or less.

    The steps are all 128 mantissas of a bfloat16, from the smallest normal number up to where a
    range is computed at a quarter of its size. The error decides how the quotient is rounded, and
    whether the last position lies beyond the last code.
    """
    levels = 2**bits - 1
    mantissas = (128 + torch.arange(128)) / 128
    exponents = torch.tensor([-126, -110, -1, 0, 1, 60, 115, 117, 123 - bits, 124 - bits])
    steps = torch.ldexp(mantissas.repeat(len(exponents)), exponents.repeat_interleave(128))
    ranges = (steps * levels).view(torch.int32)
    ranges = (ranges + torch.arange(-3, 4)[:, None].int()).view(-1).view(torch.float32)
    places = torch.tensor([0, 1, 0.5, 0.25, 1, 1 / levels, 0.999, 0])
    return ranges[:, None] * places  # (70 · 128, 8)


def layouts(x):
    """Yield the numbers contiguous, transposed, with a stride, misaligned; one column repeated."""
    yield x
    yield x.t().contiguous().t()
    yield torch.stack((x, -x), dim=2)[:, :, 0]
    yield torch.cat((x[:, :1], x), dim=1)[:, 1:]
    yield x[:, :1].expand(-1, x.shape[1])


def assert_all_ops_equal_reference(x, noise, first_row=0):
    """Compare every operator whose bits are defined, on the device of `noise`."""
    for bits, stochastic in itertools.product(BITS, (True, False)):
        options = {"bits": bits, "stochastic": stochastic, "first_row": first_row}
        kept = reference.quantize(x, noise.cpu(), **options)
        on_device = ops.quantize(on(noise, x), noise, **options)
        assert_same_bits(on_device, kept)
        assert_dequantizes_as_reference(x, on_device, kept, bits)
    assert_activations_equal_reference(x, noise, first_row)


def on(noise, x):
    """Return x on the device of the noise, with the strides it has."""
    return x if noise.device == x.device else x.to(noise.device)


def assert_dequantizes_as_reference(x, on_device, kept, bits):
    """Dequantize to a new matrix, into a strided one, and added to rows of a larger one."""
    options = {"bits": bits, "num_columns": x.shape[1], "dtype": x.dtype}
    expected = reference.dequantize(*kept, **options)
    assert_same_bits(ops.dequantize(*on_device, **options), expected)
    device = on_device[0].device
    wide = torch.zeros(*x.shape, 2, dtype=x.dtype, device=device)
    assert_same_bits(ops.dequantize_(wide[:, :, 1], *on_device, bits=bits), expected)
    assert not wide[:, :, 0].any()
    index = torch.randperm(x.shape[0] + 3, generator=torch.Generator().manual_seed(bits))
    for rows in (None, index[: x.shape[0]]):
        size = x.shape[0] if rows is None else x.shape[0] + 3
        out = torch.full((size, x.shape[1]), 0.7, dtype=x.dtype)
        ours = ops.dequantize_add_(
            out.to(device, copy=True),
            *on_device,
            None if rows is None else rows.to(device),
            bits=bits,
        )
        reference.dequantize_add_(out, *kept, rows, bits=bits)
        assert_same_bits(ours, out)


def assert_activations_equal_reference(x, noise, first_row=0):
    """Compare sign masks, LeakyReLU's derivative, dropout, and the two in one sweep."""
    own = on(noise, x)
    mask = ops.sign_mask(own)
    assert_same_bits(mask, reference.sign_mask(x))
    assert_same_bits(
        ops.leaky_relu_backward(own, mask, negative_slope=SLOPE),
        reference.leaky_relu_backward(x, mask.cpu(), negative_slope=SLOPE),
    )
    for probability in (0.0, 0.3, 1.0):
        options = {"probability": probability, "first_row": first_row}
        expected = reference.dropout(x, noise.cpu(), **options)
        assert_same_bits(ops.dropout(own, noise, **options), expected)
        options["negative_slope"] = SLOPE
        assert_same_bits(
            ops.leaky_relu_dropout_backward(own, mask, noise, **options),
            reference.leaky_relu_dropout_backward(x, mask.cpu(), noise.cpu(), **options),
        )
        for addend in (None, x.flip(0)):
            copies = [torch.stack((t, t), dim=2)[:, :, 0] for t in (own, x)]
            on_device = None if addend is None else addend.to(noise.device)
            ours = ops.leaky_relu_dropout_(copies[0], noise, on_device, **options)
            theirs = reference.leaky_relu_dropout_(copies[1], noise.cpu(), addend, **options)
            assert_same_bits((ours, copies[0]), (theirs, copies[1]))
