"""The quantizer in plain PyTorch.

A group is a slice of at most 256 columns of one row. With `levels = 2**bits - 1` it is stored as

    minimum    its smallest value, in the arithmetic type (float32; float64 for float64 input),
    step       (maximum - minimum) / levels, rounded up to bfloat16 (float64 stays as it is),
    codes      `bits` bits per element, code = round(v) with v = (x - minimum) / step,

and comes back as `minimum + code * step`. Stochastic rounding goes up if and only if
`fraction(v) > (u + 0.5) / 2**16` for 16 random bits u, so that the mean of what comes back is x.
The metadata is rounded first and then used, as stored, to quantize: otherwise the rounding of the
step would be a bias that no averaging removes. docs/quantizer.md has the proofs.

Special groups: a constant one has step 0 and is exact; one whose range passes a quarter of the
largest float is computed at a quarter of its size and says so in the sign bit of its step; one with
a NaN or an Inf is stored as NaN and comes back as NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.noise import draw

GROUP_COLUMNS = 256
"""Columns per group: a multiple of the 8 elements that share one generator call."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that a tensor of `dtype` is scaled in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def step_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that the steps of a tensor of `dtype` are stored in."""
    return torch.float64 if dtype == torch.float64 else torch.bfloat16


def num_groups(num_columns: int) -> int:
    """Group in a row of `num_columns`; the last one may be shorter."""
    return -(-num_columns // GROUP_COLUMNS)


def packed_bytes(num_columns: int, bits: int) -> int:
    """Bytes of a packed row: it is padded to whole bytes and no further."""
    return -(-num_columns * bits // 8)


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
    scale = _per_column(_scale(step), num_columns)
    inverse = torch.where(step == 0, 0.0, torch.ones_like(step) / step.abs())
    low = _per_column(minimum, num_columns) * scale
    v = (work * scale - low) * _per_column(inverse, num_columns)
    if stochastic:
        threshold = (draw(stream, first_row, x.shape).to(v.dtype) + 0.5) * 2.0**-16
        code = v.floor() + (v - v.floor() > threshold)
    else:
        code = (v + 0.5).floor()
    code = torch.where(v.isnan(), 0.0, code.clamp(0, 2**bits - 1))
    return pack(code.to(torch.uint8), bits), minimum, stored


def dequantize(
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    *,
    num_columns: int,
    bits: int,
    dtype: torch.dtype,
) -> Tensor:  # (N, D)
    """Give back `minimum + code * step`, clamped to the finite range of `dtype`."""
    return _values(codes, minimum, step, num_columns, bits, dtype).to(dtype)


def dequantize_(out: Tensor, codes: Tensor, minimum: Tensor, step: Tensor, *, bits: int) -> None:
    """`out = minimum + code * step`."""
    out.copy_(_values(codes, minimum, step, out.shape[1], bits, out.dtype))


def dequantize_add_(
    out: Tensor,  # (M, D)
    codes: Tensor,
    minimum: Tensor,
    step: Tensor,
    index: Tensor | None = None,  # (N,)
    *,
    bits: int,
) -> None:
    """`out[index] += minimum + code * step`, the sum in the arithmetic type."""
    if index is not None:
        check_rows("index", index, out.shape[0], "out")
    value = _values(codes, minimum, step, out.shape[1], bits, out.dtype)
    before = out if index is None else out.index_select(0, index)
    total = (before.to(value.dtype) + value).to(out.dtype)
    _ = out.copy_(total) if index is None else out.index_copy_(0, index, total)


def check_rows(name: str, index: Tensor, num_rows: int, owner: str) -> None:
    """On a CPU, refuse a number that is no row; a GPU would have to be waited for."""
    if index.device.type == "cpu" and ((index < 0) | (index >= num_rows)).any():
        raise RuntimeError(f"{name} must hold rows of {owner}, which has {num_rows}")


def _values(
    codes: Tensor, minimum: Tensor, step: Tensor, num_columns: int, bits: int, dtype: torch.dtype
) -> Tensor:  # (N, D)
    """`minimum + code * step` in the arithmetic type, clamped to the range of `dtype`."""
    step = step.to(minimum.dtype)
    scale = _scale(step)
    low = _per_column(minimum * scale, num_columns)
    code = unpack(codes, bits, num_columns).to(minimum.dtype)
    value = low + code * _per_column(step.abs(), num_columns)
    value = value * _per_column(torch.ones_like(scale) / scale, num_columns)
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest)


def _metadata(work: Tensor, bits: int) -> tuple[Tensor, Tensor]:  # (N, D) -> (N, G), (N, G)
    """Minimum and signed step of every group, both in the arithmetic type."""
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
    """The next bfloat16 at or above a non-negative float32; float64 is kept as it is."""
    if step.dtype == torch.float64:
        return step
    bits = step.view(torch.int32) + 0xFFFF
    return (bits & ~0xFFFF).view(torch.float32)


def _scale(step: Tensor) -> Tensor:
    return torch.where(step < 0, 0.25, 1.0).to(step.dtype)


def _per_column(group_values: Tensor, num_columns: int) -> Tensor:  # (N, G) -> (N, D)
    return group_values.repeat_interleave(GROUP_COLUMNS, dim=1)[:, :num_columns]


def pack(code: Tensor, bits: int) -> Tensor:  # (N, D) uint8 -> (N, ceil(D * bits / 8)) uint8
    """Codes of `bits` each from the low bits of every byte upwards; a row ends with a byte."""
    per_byte = 8 // bits
    code = torch.nn.functional.pad(code, (0, -code.shape[1] % per_byte))
    code = code.reshape(code.shape[0], code.shape[1] // per_byte, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=code.device)
    return (code << shifts).sum(dim=2, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, num_columns: int) -> Tensor:  # -> (N, D) uint8
    """The inverse of `pack`."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    code = (packed.unsqueeze(2) >> shifts) & (2**bits - 1)
    return code.flatten(1)[:, :num_columns]
