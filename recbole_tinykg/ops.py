"""The operators of the package, as functions that check their arguments.

Kernels trust what they are given, so every argument is checked here, once, and cheaply: a training
step makes some tens of these calls. This is the only file that writes ``torch.ops.recbole_tinykg``.

Random operators take ``stream``, an int64 tensor [seed, position] on the device of the data, and
have no other state: the same stream draws the same noise, whatever ran before. ``first_row`` says
which row of a larger matrix the first row of the argument is, so that a matrix treated in row
blocks draws the noise it would draw whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg import reference
from recbole_tinykg.registration import native_status, require_native

__all__ = [
    "BITS",
    "dequantize",
    "dropout",
    "leaky_relu_backward",
    "native_status",
    "quantize",
    "require_native",
    "sign_mask",
    "spmm",
    "spmm_add_",
]

BITS = (1, 2, 4, 8)
"""Bits per element that a code may have."""

_FLOATS = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.float64))
_INDICES = frozenset((torch.int32, torch.int64))

_quantize = torch.ops.recbole_tinykg.quantize.default
_dequantize = torch.ops.recbole_tinykg.dequantize.default
_sign_mask = torch.ops.recbole_tinykg.sign_mask.default
_leaky_relu_backward = torch.ops.recbole_tinykg.leaky_relu_backward.default
_dropout = torch.ops.recbole_tinykg.dropout.default
_spmm = torch.ops.recbole_tinykg.spmm.default
_spmm_add_ = torch.ops.recbole_tinykg.spmm_add_.default


def quantize(
    x: Tensor,  # (N, D) float, any strides
    stream: Tensor,  # (2,) int64: seed, position
    *,
    bits: int,
    stochastic: bool = True,
    first_row: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # codes (N, ceil(D * bits / 8)), minimum (N, G), step (N, G)
    """Quantize every group (256 columns of a row) of a matrix to ``bits`` per element.

    ``code = round((x - minimum) / step)``, packed from the low bits of each byte upwards.

    Args:
        x: Matrix to quantize.
        stream: Seed and position of the random stream, on the device of ``x``.
        bits: 1, 2, 4 or 8.
        stochastic: Round at random so that the mean is exact; otherwise to the nearest code.
        first_row: Row of the random stream that the first row of ``x`` takes.

    Returns:
        Codes (uint8), minimum (float32) and step (bfloat16) of the G = ceil(D / 256) groups of each
        row; minimum and step are float64 for float64 ``x``.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device, ``bits`` or ``first_row`` is wrong.
    """
    _check_matrix("x", x)
    _check_stream(stream, x, first_row)
    _check_bits(bits)
    return _quantize(x, stream, bits=bits, stochastic=stochastic, first_row=first_row)


def dequantize(
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    *,
    num_columns: int,
    bits: int,
    dtype: torch.dtype,
) -> Tensor:  # (N, D) of dtype
    """Give back ``minimum + code * step``: the inverse of ``quantize`` up to its noise.

    Args:
        codes: Packed codes.
        minimum: Smallest value of each group, as ``quantize`` stored it.
        step: Signed step of each group, as ``quantize`` stored it.
        num_columns: D, which the padding of a row hides.
        bits: 1, 2, 4 or 8.
        dtype: Type of the result; float64 if and only if float64 was quantized.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device or ``bits`` is wrong.
    """
    _check_bits(bits)
    _check_float("dtype", dtype)
    num_rows = codes.shape[0]
    groups = (num_rows, reference.num_groups(num_columns))
    packed = (num_rows, reference.packed_bytes(num_columns, bits))
    _check_tensor("codes", codes, packed, torch.uint8, minimum.device)
    _check_tensor("minimum", minimum, groups, reference.compute_dtype(dtype), codes.device)
    _check_tensor("step", step, groups, reference.step_dtype(dtype), codes.device)
    return _dequantize(codes, minimum, step, num_columns=num_columns, bits=bits, dtype=dtype)


def sign_mask(x: Tensor) -> Tensor:  # (N, D) -> (N, ceil(D / 8)) uint8
    """Keep one bit per element: bit ``j % 8`` of byte ``j // 8`` is ``x[:, j] > 0``.

    Raises:
        TypeError: ``x`` is not floating point.
        ValueError: ``x`` is not a matrix.
    """
    _check_matrix("x", x)
    return _sign_mask(x)


def leaky_relu_backward(
    grad: Tensor,  # (N, D)
    mask: Tensor,  # (N, ceil(D / 8)) uint8
    *,
    negative_slope: float,
) -> Tensor:  # (N, D)
    """Multiply ``grad`` by 1 where ``mask`` has a bit and by ``negative_slope`` elsewhere.

    With ``mask = sign_mask(x)`` this is the derivative of LeakyReLU at x; ReLU is slope 0.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape or a device is wrong.
    """
    _check_matrix("grad", grad)
    packed = (grad.shape[0], reference.packed_bytes(grad.shape[1], 1))
    _check_tensor("mask", mask, packed, torch.uint8, grad.device)
    return _leaky_relu_backward(grad, mask, negative_slope=negative_slope)


def dropout(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    *,
    probability: float,
    first_row: int = 0,
) -> Tensor:  # (N, D)
    """Zero elements at random and scale the others so that the mean is kept.

    The mask is a function of the stream, so nothing needs keeping: the gradient is the same call on
    the gradient. The probability is rounded to a multiple of 2**-16 and the scale is that of the
    rounded one.

    Args:
        x: Matrix.
        stream: Seed and position of the random stream, on the device of ``x``.
        probability: Chance of an element to be zeroed, in [0, 1].
        first_row: Row of the random stream that the first row of ``x`` takes.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device, ``probability`` or ``first_row`` is wrong.
    """
    _check_matrix("x", x)
    _check_stream(stream, x, first_row)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1]; got {probability}")
    return _dropout(x, stream, probability=probability, first_row=first_row)


def spmm(
    crow: Tensor,  # (M + 1,) int32 or int64
    col: Tensor,  # (E,) same type
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
) -> Tensor:  # (M, D)
    """Multiply the CSR matrix (crow, col, values) of shape (M, N) by ``dense``.

    Column indices are not checked against N: the cost would be that of the product.

    Raises:
        TypeError: Index types differ or are no integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    _check_csr(crow, col, values, dense)
    return _spmm(crow, col, values, dense)


def spmm_add_(
    out: Tensor,  # (M, D)
    crow: Tensor,  # (M + 1,) int32 or int64
    col: Tensor,  # (E,) same type
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D), no memory in common with out
) -> Tensor:  # out
    """Add the product of the CSR matrix (crow, col, values) and ``dense`` to ``out``, in place.

    Raises:
        TypeError: Index types differ or are no integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    _check_csr(crow, col, values, dense)
    _check_tensor("out", out, (crow.shape[0] - 1, dense.shape[1]), dense.dtype, dense.device)
    _spmm_add_(out, crow, col, values, dense)
    return out


def _check_matrix(name: str, x: Tensor) -> None:
    if x.dim() != 2:
        raise ValueError(f"{name} must be a matrix (N, D); got shape {tuple(x.shape)}")
    _check_float(name, x.dtype)


def _check_float(name: str, dtype: torch.dtype) -> None:
    if dtype not in _FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64; got {dtype}")


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"bits must be one of 1, 2, 4, 8; got {bits}")


def _check_stream(stream: Tensor, x: Tensor, first_row: int) -> None:
    _check_tensor("stream", stream, (2,), torch.int64, x.device)
    if first_row < 0:
        raise ValueError(f"first_row must be at least 0; got {first_row}")


def _check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(tensor.shape)}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}; got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}; got {tensor.device}")


def _check_csr(crow: Tensor, col: Tensor, values: Tensor, dense: Tensor) -> None:
    _check_matrix("dense", dense)
    if crow.dim() != 1 or crow.shape[0] == 0:
        raise ValueError(f"crow must have shape (M + 1,); got {tuple(crow.shape)}")
    if crow.dtype not in _INDICES:
        raise TypeError(f"crow must be int32 or int64; got {crow.dtype}")
    if col.dim() != 1:
        raise ValueError(f"col must have shape (E,); got {tuple(col.shape)}")
    _check_tensor("crow", crow, tuple(crow.shape), crow.dtype, dense.device)
    _check_tensor("col", col, tuple(col.shape), crow.dtype, dense.device)
    _check_tensor("values", values, tuple(col.shape), dense.dtype, dense.device)
