"""The kernel's noise against docs/quantizer.md: the mean is exact, the variance is s^2 f (1 - f).

Draws of an element are independent and its code takes one of two values, so both sums below are of
bounded, independent terms. Hoeffding: for n terms in an interval of width w, the mean errs by more
than t with probability 2 exp(-2 n t^2 / w^2) at most. With ln(2 / chance) = 25 an element raises a
false alarm with chance 3e-11, and all elements of this file together with less than 1e-6.
"""

from __future__ import annotations

import math

import pytest
import torch

from helpers.operators import BITS
from recbole_tinykg import ops
from recbole_tinykg.quantization import stream

DRAWS = 4000
LOG_CHANCE = 25.0
RESOLUTION = 2.0**-17  # of a rounding probability, docs/quantizer.md
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def groups(dtype):
    """Rows of different offset and range, one of them constant."""
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1] = x[1] * 1e-3 + 3
    x[2] *= 1e-6
    x[3] = x[3].round()
    x[4] = 0.1
    x[5] = x[5] * 1e4 - 1e5
    return x.to(dtype)


def draws(x, bits):
    """(DRAWS, N, D) float64 of what comes back, steps and exact positions between codes."""
    wide = x.repeat(DRAWS, 1)  # every copy has its own rows, hence its own noise
    codes, minimum, step = ops.quantize(wide, stream(5, 6), bits=bits)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32  # no rounding to 16 bits
    back = ops.dequantize(codes, minimum, step, num_columns=x.shape[1], bits=bits, dtype=work)
    low, step = minimum[: len(x)].double(), step[: len(x)].double()
    position = torch.where(step > 0, (x.double() - low) / step, 0)
    return back.double().view(DRAWS, *x.shape), step, position


def rounding_slack(x, step):
    """Float rounding of positions and values: 4 units in the last place of what is involved."""
    eps = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    return 4 * eps * (x.double().abs().amax(1, keepdim=True) + 256 * step)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mean_is_exact(dtype, bits):
    x = groups(dtype)
    back, step, _ = draws(x, bits)
    bound = step * (math.sqrt(LOG_CHANCE / (2 * DRAWS)) + RESOLUTION) + rounding_slack(x, step)
    assert ((back.mean(0) - x.double()).abs() <= bound).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_variance_is_that_of_the_formula(dtype, bits):
    """(back - x)^2 lies in [0, step^2]; its mean is step^2 f (1 - f)."""
    x = groups(dtype)
    back, step, position = draws(x, bits)
    fraction = position - position.floor()
    expected = step**2 * fraction * (1 - fraction)
    slack = 2 * step * rounding_slack(x, step) + rounding_slack(x, step) ** 2
    bound = step**2 * (math.sqrt(LOG_CHANCE / (2 * DRAWS)) + 2 * RESOLUTION) + slack
    measured = (back - x.double()).square().mean(0)
    assert ((measured - expected).abs() <= bound).all()
    assert (measured <= step**2 / 4 + bound).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ratio", [0.0, 1e-6, 1e-3, 1.0, 30.0, 1e3, 1e5])
def test_rounding_the_metadata_adds_less_than_2_percent_of_noise(ratio, bits):
    """RMS noise with the stored step against that of range / levels, whatever the offset.

    Noise is step * sqrt(f (1 - f)); its mean over values spread evenly is step / sqrt(6), so that
    the ratio of the steps is the ratio of the noises. The range counts in float32: what an offset
    of 1e5 ranges rounds away was lost before.
    """
    generator = torch.Generator().manual_seed(bits)
    values = torch.rand(2000, 64, generator=generator, dtype=torch.float64)
    x = (values + ratio).float()
    codes, minimum, step = ops.quantize(x, stream(1, 2), bits=bits)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    assert torch.equal(minimum, low)
    ideal = (high.double() - low.double()) / (2**bits - 1)
    excess = step.double() / ideal - 1
    assert (excess >= 0).all()
    assert excess.square().mean().sqrt() < 0.02
    assert excess.max() <= 2.0**-7
    back = ops.dequantize(
        codes, minimum, step, num_columns=64, bits=bits, dtype=torch.float32
    ).double()
    measured = (back - x.double()).square().mean().sqrt()
    position = (x.double() - low.double()) / ideal
    fraction = position - position.floor()
    unrounded = (ideal**2 * fraction * (1 - fraction)).mean().sqrt()
    # Hoeffding: the mean of 128,000 squares of at most step^2 errs by 0.0099 step^2 (once in 1e11),
    # which is 6 % of their mean, step^2 / 6.
    slack = rounding_slack(x, step.double()).max()
    assert measured <= unrounded * 1.02 * math.sqrt(1.06) + slack
