"""The way back from codes in plain PyTorch; `quantize` has the formula and the special groups."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.checks import check_rows
from recbole_tinykg.ops.reference.pack import unpack
from recbole_tinykg.ops.reference.quantize import group_scale, per_column


def dequantize(
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    *,
    num_columns: int,
    bits: int,
    dtype: torch.dtype,
) -> Tensor:  # (N, D)
    """Return `minimum + code * step`, clamped to the finite range of `dtype`."""
    return _values(codes, minimum, step, num_columns, bits, dtype).to(dtype)


def dequantize_(out: Tensor, codes: Tensor, minimum: Tensor, step: Tensor, *, bits: int) -> None:
    """Set `out = minimum + code * step`."""
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
    """Add `minimum + code * step` to `out[index]`, the sum in the arithmetic type."""
    if index is not None:
        check_rows("index", index, out.shape[0], "out")
    value = _values(codes, minimum, step, out.shape[1], bits, out.dtype)
    before = out if index is None else out.index_select(0, index)
    total = (before.to(value.dtype) + value).to(out.dtype)
    _ = out.copy_(total) if index is None else out.index_copy_(0, index, total)


def _values(
    codes: Tensor, minimum: Tensor, step: Tensor, num_columns: int, bits: int, dtype: torch.dtype
) -> Tensor:  # (N, D)
    """Return `minimum + code * step` in the arithmetic type, clamped to the range of `dtype`."""
    step = step.to(minimum.dtype)
    scale = group_scale(step)
    low = per_column(minimum * scale, num_columns)
    code = unpack(codes, bits, num_columns).to(minimum.dtype)
    value = low + code * per_column(step.abs(), num_columns)
    value = value * per_column(torch.ones_like(scale) / scale, num_columns)
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest)
