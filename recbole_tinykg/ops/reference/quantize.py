"""The quantizer in plain PyTorch.

A group is a slice of at most 256 columns of one row. With `levels = 2**bits - 1` it is stored as

    minimum    its smallest value, in the arithmetic type (float32; float64 for float64 input),
    step       (maximum - minimum) / levels, rounded up to bfloat16 (float64 stays as it is),
    codes      `bits` bits per element, code = round(v) with v = (x - minimum) / step,

and comes back as `minimum + code * step`. Stochastic rounding goes up if and only if
`fraction(v) > (u + 0.5) / 2**16` for 16 random bits u, so that the mean of what comes back is x.
The metadata is rounded first and used, as stored, to quantize: otherwise the rounding of the step
would be a bias that no averaging removes. docs/quantizer.md has the proofs.

Special groups: a constant group has step 0 and is exact; one whose range exceeds a quarter of the
largest float is computed at a quarter of its size, which the sign bit of its step records; one with
a NaN or an Inf is stored as NaN and comes back as NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.noise import draw
from recbole_tinykg.ops.reference.pack import pack

GROUP_COLUMNS = 256
"""Columns per group: a multiple of the 8 elements that share one generator call."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the arithmetic on `dtype`: float64 for float64, float32 otherwise."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def step_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that the steps of a tensor of `dtype` are stored in."""
    return torch.float64 if dtype == torch.float64 else torch.bfloat16


def num_groups(num_columns: int) -> int:
    """Count the groups of a row of `num_columns`; the last one may be shorter."""
    return -(-num_columns // GROUP_COLUMNS)


def quantize(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    *,
    bits: int,
    stochastic: bool = True,
    first_row: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # codes (N, ceil(D * bits / 8)), minimum (N, G), step (N, G)
    """Quantize each group of `x`; see `ops.quantize` for the arguments."""
    num_columns = x.shape[1]
    work = x.to(compute_dtype(x.dtype))
    minimum, step = _metadata(work, bits)
    stored = step.to(step_dtype(x.dtype))
    scale = per_column(group_scale(step), num_columns)
    inverse = torch.where(step == 0, 0.0, torch.ones_like(step) / step.abs())
    low = per_column(minimum, num_columns) * scale
    v = (work * scale - low) * per_column(inverse, num_columns)
    if stochastic:
        threshold = (draw(stream, first_row, x.shape).to(v.dtype) + 0.5) * 2.0**-16
        code = v.floor() + (v - v.floor() > threshold)
    else:
        code = (v + 0.5).floor()
    code = torch.where(v.isnan(), 0.0, code.clamp(0, 2**bits - 1))
    return pack(code.to(torch.uint8), bits), minimum, stored


def _metadata(work: Tensor, bits: int) -> tuple[Tensor, Tensor]:  # (N, D) -> (N, G), (N, G)
    """Return minimum and signed step of every group, both in the arithmetic type."""
    groups = work.split(GROUP_COLUMNS, dim=1) if work.shape[1] else ()
    low = work.new_empty(work.shape[0], len(groups))
    high = torch.empty_like(low)
    for index, group in enumerate(groups):
        low[:, index] = group.amin(dim=1) + 0.0  # -0 becomes +0: one pattern per value
        high[:, index] = group.amax(dim=1)
    largest = torch.finfo(work.dtype).max
    scale = torch.where(high - low > largest / 4, 0.25, 1.0).to(work.dtype)
    span = high * scale - low * scale
    # Division by a tensor: by a Python number CUDA multiplies by a rounded reciprocal.
    step = _round_up(span / torch.full_like(span, 2**bits - 1))
    step = torch.where(span > 0, step.clamp(min=torch.finfo(work.dtype).tiny), 0.0)
    step = torch.where(scale < 1, -step, step)
    broken = ~(low.isfinite() & high.isfinite())
    return low.masked_fill(broken, torch.nan), step.masked_fill(broken, torch.nan)


def _round_up(step: Tensor) -> Tensor:
    """Round a non-negative float32 up to a bfloat16; leave float64 as it is."""
    if step.dtype == torch.float64:
        return step
    bits = step.view(torch.int32) + 0xFFFF
    return (bits & ~0xFFFF).view(torch.float32)


def group_scale(step: Tensor) -> Tensor:
    """Return what each group is multiplied by: 1/4 where the step is negative, else 1."""
    return torch.where(step < 0, 0.25, 1.0).to(step.dtype)


def per_column(group_values: Tensor, num_columns: int) -> Tensor:  # (N, G) -> (N, D)
    """Repeat the value of each group for its columns."""
    return group_values.repeat_interleave(GROUP_COLUMNS, dim=1)[:, :num_columns]
