"""The definition of the quantizer against scalar arithmetic written from docs/quantizer.md.

A code is wrong by at most one step (half a step to nearest). What comes back is rounded three times
on the way, to the arithmetic type: tolerances are a step plus four units in the last place of the
largest number involved.
"""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
import torch

from recbole_tinykg.ops import reference
from recbole_tinykg.ops.reference.noise import draw, philox4x32
from recbole_tinykg.quantization import stream

QUANTIZE = import_module(reference.quantize.__module__)  # `reference.quantize` is the function
BITS = [1, 2, 4, 8]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
FULL = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)

# kat_vectors of Random123 1.14: rounds, the six input words, the four output words
KNOWN_ANSWERS = [
    (7, (0,) * 6, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (7, (FULL,) * 6, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (7, PI, (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
    (10, (0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (10, (FULL,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (10, PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def roundtrip(x, bits, seed=0, position=0, **options):
    kept = reference.quantize(x, stream(seed, position), bits=bits, **options)
    columns = x.shape[1]
    return reference.dequantize(*kept, num_columns=columns, bits=bits, dtype=x.dtype), kept


def steps(kept, num_columns):
    """Unsigned step of every element; a wide group's step is stored at a quarter of its size."""
    step = kept[2].double()
    step = torch.where(step < 0, -4 * step, step)
    return step.repeat_interleave(256, dim=1)[:, :num_columns]


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("rounds", "words", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(rounds, words, answer):
    counter, key = torch.tensor(words[:4]), torch.tensor(words[4:])
    got = philox4x32(tuple(counter), tuple(key), rounds)
    assert tuple(int(word) for word in got) == answer


def philox_of_integers(counter, key):
    """Philox 4x32-7 in Python's unbounded integers."""
    c0, c1, c2, c3 = counter
    for round_number in range(7):
        key0 = key[0] + round_number * 0x9E3779B9 & FULL
        key1 = key[1] + round_number * 0xBB67AE85 & FULL
        high0, low0 = divmod(c0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(c2 * 0xCD9E8D57, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
    return c0, c1, c2, c3


def noise_of_integers(seed, position, row, column, num_columns):
    block = row * math.ceil(num_columns / 8) + column // 8
    counter = (block & FULL, block >> 32, position & FULL, position >> 32)
    word = philox_of_integers(counter, (seed & FULL, seed >> 32 & FULL))[column % 8 // 2]
    return word >> 16 if column % 2 else word & 0xFFFF


@pytest.mark.parametrize("seed", [0, 2**31, 2**40 + 17, -3])
@pytest.mark.parametrize("position", [0, 2**33 + 5])
@pytest.mark.parametrize("first_row", [0, 2**34 + 1])
@pytest.mark.parametrize("num_columns", [3, 8, 21])
def test_noise_is_a_function_of_seed_position_row_and_column(
    seed, position, first_row, num_columns
):
    noise = draw(stream(seed, position), first_row, torch.Size((3, num_columns)))
    expected = [
        [
            noise_of_integers(seed, position, first_row + row, column, num_columns)
            for column in range(num_columns)
        ]
        for row in range(3)
    ]
    assert noise.tolist() == expected


def code_of_group(group, bits, random):
    """Codes, minimum and step of one group in NumPy scalars; to nearest if random is None."""
    real = group.dtype.type
    low, high = min(group), max(group)
    wide = float(high) - float(low) > float(np.finfo(real).max) / 4
    scale = real(0.25 if wide else 1)
    levels = real(2**bits - 1)
    step = (high * scale - low * scale) / levels
    if real is np.float32:  # up to the next number whose last 16 bits are 0
        step = (-(-step.view(np.uint32).astype(np.int64) >> 16) << 16).astype(np.uint32)
        step = step.view(np.float32)
    codes = []
    for index, x in enumerate(group):
        v = (x * scale - low * scale) * (real(1) / step)
        fraction, whole = math.modf(v)
        up = fraction >= 0.5 if random is None else fraction > (random[index] + 0.5) / 2**16
        codes.append(min(int(whole) + up, 2**bits - 1))
    return codes, float(low), float(-step if wide else step)


def unpack(packed, bits, num_columns):
    in_bits = np.unpackbits(packed.numpy(), axis=1, bitorder="little")
    codes = in_bits.reshape(len(packed), -1, bits) @ (1 << np.arange(bits))
    return codes[:, :num_columns].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("magnitude", [1.0, "huge"])
def test_codes_and_metadata_equal_scalar_arithmetic(dtype, bits, stochastic, magnitude):
    columns = 259  # a whole group and a ragged one
    factor = torch.finfo(dtype).max / 5 if magnitude == "huge" else magnitude
    x = normal(4, columns, dtype=dtype).clamp(-4.9, 4.9) * factor
    noise = draw(stream(3, 1), 0, x.shape).tolist()
    codes, minimum, step = reference.quantize(x, stream(3, 1), bits=bits, stochastic=stochastic)
    got = unpack(codes, bits, columns)
    for row in range(4):
        for group, columns_of in enumerate((slice(0, 256), slice(256, 259))):
            random = noise[row][columns_of] if stochastic else None
            expected = code_of_group(x[row, columns_of].numpy(), bits, random)
            found = got[row][columns_of], minimum[row, group].item(), step[row, group].item()
            assert found == expected
    assert (step < 0).any() == (magnitude == "huge")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stochastic", [True, False])
def test_error_is_at_most_a_step_or_half_of_it(bits, dtype, stochastic):
    x = normal(50, 300, dtype=dtype)
    back, kept = roundtrip(x, bits, stochastic=stochastic)
    rounding = 4 * torch.finfo(dtype).eps * x.double().abs().max()
    limit = steps(kept, 300) * (1 if stochastic else 0.5) + rounding
    assert ((back.double() - x.double()).abs() <= limit).all()
    assert back.dtype == dtype


@pytest.mark.parametrize("bits", BITS)
def test_mean_over_all_noise_is_exact(bits, monkeypatch):
    """Every value of the 16 random bits once: what is left is half a step of the noise, 2**-17."""
    every = torch.arange(2**16)
    monkeypatch.setattr(QUANTIZE, "draw", lambda *_: every.unsqueeze(1).expand(-1, 7))
    row = torch.tensor([-1.0, 0.0, 0.3, 1 / 3, 0.77777, 1.999999, 2.5], dtype=torch.float64)
    back, kept = roundtrip(row.expand(2**16, 7), bits)
    step = steps(kept, 7)[0]
    assert ((back.mean(dim=0) - row).abs() <= step * 2.0**-17 + 1e-12).all()
    variance = back.var(dim=0, correction=0)
    fraction = torch.remainder((row + 1) / step, 1)
    torch.testing.assert_close(
        variance, fraction * (1 - fraction) * step**2, rtol=0, atol=2.0**-16 * step.max() ** 2
    )
    assert (variance <= step**2 / 4 * (1 + 2.0**-15)).all()


def test_largest_value_never_rounds_past_the_last_code(monkeypatch):
    """With this range v is rounded to just above 255, and noise of 0 rounds it up."""
    monkeypatch.setattr(QUANTIZE, "draw", lambda *_: torch.zeros(1, 2, dtype=torch.int64))
    x = torch.tensor([[0.0, 255 * (1 + 39 / 128)]])
    back, (codes, _, _) = roundtrip(x, 8)
    assert codes.tolist() == [[0, 255]]
    assert torch.equal(back, x)


def test_rows_draw_independent_noise():
    """Correlation of equal rows, positions or seeds: below 5 / sqrt(n) for independent noise."""
    x = torch.linspace(0, 1, 256).expand(200, 256)
    errors = [roundtrip(x, 2, seed, position)[0] - x for seed, position in ((0, 0), (0, 1), (1, 0))]
    pairs = [(errors[0], errors[1]), (errors[0], errors[2]), (errors[0][:-1], errors[0][1:])]
    pairs.append((errors[0][:, :-1], errors[0][:, 1:]))
    for a, b in pairs:
        correlation = torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(a.numel())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e-7, 3e4, "largest", "tiny"])
def test_constant_row_is_exact(dtype, value):
    value = {"largest": torch.finfo(dtype).max, "tiny": torch.finfo(dtype).tiny}.get(value, value)
    x = torch.full((3, 300), value, dtype=dtype)
    back, (codes, _, step) = roundtrip(x, 2)
    assert torch.equal(back, x)
    assert not codes.any()
    assert not step.any()


def test_negative_zero_has_the_bits_of_zero():
    back, (_, minimum, step) = roundtrip(torch.tensor([[-0.0, 0.0], [-0.0, -0.0]]), 2)
    assert not any(tensor.signbit().any() for tensor in (back, minimum, step))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_group_with_nan_or_inf_comes_back_as_nan_and_no_other(dtype, bad):
    x = normal(4, 600, dtype=dtype)
    x[1, 300] = bad  # second group of its row
    back, (codes, minimum, step) = roundtrip(x, 4)
    broken = torch.zeros(4, 600, dtype=torch.bool)
    broken[1, 256:512] = True
    assert torch.equal(back.isnan(), broken)
    assert back[~broken].isfinite().all()
    assert torch.equal(minimum.isnan(), step.isnan())
    assert minimum.isnan().nonzero().tolist() == [[1, 1]]
    assert not codes[1, 128:256].any()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_widest_range_stays_finite_and_within_a_step(bits, dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor([[-largest, -largest / 3, 0.0, largest / 2, largest]], dtype=dtype)
    back, kept = roundtrip(x, bits)
    assert back.isfinite().all()
    quarter_step = kept[2].double().abs()  # as stored: such a group is scaled by a quarter
    assert dtype == torch.float16 or (kept[2] < 0).all()
    quarter_step = quarter_step / 4 if dtype == torch.float16 else quarter_step
    rounding = torch.finfo(dtype).eps * largest
    assert ((back.double() / 4 - x.double() / 4).abs() <= quarter_step + rounding).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_smallest_range_is_within_a_step(dtype):
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    x = torch.tensor([[0.0, 1.0, 2.0, 5.0]], dtype=torch.float64).mul(smallest).to(dtype)
    assert x[0, 1] > 0
    back, kept = roundtrip(x, 8)
    assert (kept[2].double() >= torch.finfo(kept[1].dtype).smallest_normal).all()
    assert ((back.double() - x.double()).abs() <= steps(kept, 4)).all()


def test_offset_costs_nothing_where_float32_can_hold_it():
    """Values near 1 with a range of 0.01: noise of the range, not of the offset."""
    x = 1 + 0.01 * torch.rand(100, 64, generator=torch.Generator().manual_seed(0))
    back, _ = roundtrip(x, 8)
    step = 0.01 / 255 * (1 + 2**-7)  # bfloat16 rounds up by at most 2**-7
    assert (back - x).abs().max() <= step + 4 * 2**-23


@pytest.mark.parametrize("num_columns", [5, 64, 300])
def test_row_blocks_draw_the_noise_of_the_whole(num_columns):
    x = normal(20, num_columns)
    whole = reference.quantize(x, stream(5, 6), bits=2)
    cuts = [(0, 7), (7, 8), (8, 20)]
    parts = [
        reference.quantize(x[start:stop], stream(5, 6), bits=2, first_row=start)
        for start, stop in cuts
    ]
    for index, tensor in enumerate(whole):
        assert torch.equal(tensor, torch.cat([part[index] for part in parts]))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("num_columns", [0, 1, 3, 7, 8, 9, 255, 256, 257, 600])
@pytest.mark.parametrize("num_rows", [0, 2])
def test_padding_is_one_byte_at_most(bits, num_columns, num_rows):
    x = normal(num_rows, num_columns)
    back, (codes, minimum, step) = roundtrip(x, bits)
    assert back.shape == x.shape
    assert codes.shape == (num_rows, math.ceil(num_columns * bits / 8))
    assert minimum.shape == step.shape == (num_rows, math.ceil(num_columns / 256))
    assert (codes.dtype, minimum.dtype, step.dtype) == (
        torch.uint8,
        torch.float32,
        torch.bfloat16,
    )


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.999])
def test_dropout_keeps_the_mean(probability):
    """Kept elements are Bernoulli: their share within 5 standard deviations."""
    x = torch.ones(400, 250, dtype=torch.float64)
    out = reference.dropout(x, stream(1, 2), probability=probability)
    keep = 1 - round(probability * 2**16) / 2**16
    assert set(out.unique().tolist()) <= {0.0, 1 / keep}
    deviation = math.sqrt(keep * (1 - keep) / x.numel())
    assert abs((out > 0).double().mean().item() - keep) <= 5 * deviation


def test_dropout_of_everything_is_zero():
    assert not reference.dropout(normal(3, 9), stream(1, 2), probability=1.0).any()
