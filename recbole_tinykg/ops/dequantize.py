"""Dequantize codes to a new matrix, into one that exists, or onto one."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops import reference
from recbole_tinykg.ops.checks import (
    check_bits,
    check_float,
    check_index,
    check_tensor,
    check_written,
)

_dequantize = torch.ops.recbole_tinykg.dequantize.default
_dequantize_ = torch.ops.recbole_tinykg.dequantize_.default
_dequantize_add_ = torch.ops.recbole_tinykg.dequantize_add_.default


def dequantize(
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    *,
    num_columns: int,
    bits: int,
    dtype: torch.dtype,
) -> Tensor:  # (N, D) of dtype
    """Return `minimum + code * step`: the inverse of `quantize` up to its noise.

    Args:
        codes: Packed codes.
        minimum: Smallest value of each group, as `quantize` stored it.
        step: Signed step of each group, as `quantize` stored it.
        num_columns: D, which cannot be told from a padded row.
        bits: 1, 2, 4 or 8.
        dtype: Type of the result; float64 if and only if float64 was quantized.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device or `bits` is wrong.
    """
    check_bits(bits)
    check_float("dtype", dtype)
    if num_columns < 0:
        raise ValueError(f"num_columns must be at least 0; got {num_columns}")
    if codes.dim() != 2:
        raise ValueError(f"codes must be a matrix; got shape {tuple(codes.shape)}")
    _check_quantized(
        codes, minimum, step, (codes.shape[0], num_columns), bits, dtype, minimum.device
    )
    return _dequantize(codes, minimum, step, num_columns=num_columns, bits=bits, dtype=dtype)


def dequantize_(
    out: Tensor,  # (N, D), any strides
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    *,
    bits: int,
) -> Tensor:  # out
    """Write what `dequantize` returns to `out`: memory already in use costs no page faults.

    Raises:
        RuntimeError: `out` requires a gradient and autograd is on.
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device or `bits` is wrong.
    """
    check_bits(bits)
    check_written("out", out)
    _check_quantized(codes, minimum, step, tuple(out.shape), bits, out.dtype, out.device)
    _dequantize_(out, codes, minimum, step, bits=bits)
    return out


def dequantize_add_(
    out: Tensor,  # (M, D), any strides
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    index: Tensor | None = None,  # (N,) int64, distinct rows of out; None: N = M, every row
    *,
    bits: int,
) -> Tensor:  # out
    """Add what `dequantize` returns to rows of `out`, without a tensor in between.

    Whether the numbers of `index` are distinct is not checked. On a GPU a number outside `out`
    fails an assertion in the kernel, after which the process cannot use the device, as with
    PyTorch's own indices: checking first would wait for the device.

    Raises:
        RuntimeError: On a CPU, `index` holds a number that is not a row of `out`; or `out`
            requires a gradient and autograd is on.
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device or `bits` is wrong.
    """
    check_bits(bits)
    check_written("out", out)
    num_rows = out.shape[0] if index is None else check_index("index", index, out.device)
    shape = (num_rows, out.shape[1])
    _check_quantized(codes, minimum, step, shape, bits, out.dtype, out.device)
    _dequantize_add_(out, codes, minimum, step, index, bits=bits)
    return out


def _check_quantized(
    codes: Tensor,
    minimum: Tensor,
    step: Tensor,
    shape: tuple[int, ...],
    bits: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    num_rows, num_columns = shape
    groups = (num_rows, reference.num_groups(num_columns))
    packed = (num_rows, reference.packed_bytes(num_columns, bits))
    check_tensor("codes", codes, packed, torch.uint8, device)
    check_tensor("minimum", minimum, groups, reference.compute_dtype(dtype), device)
    check_tensor("step", step, groups, reference.step_dtype(dtype), device)
