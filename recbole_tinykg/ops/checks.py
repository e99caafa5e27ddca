"""Checks of arguments: a TypeError or ValueError names the argument, expected and got."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = (1, 2, 4, 8)
"""Bits per element that a code may have."""

_FLOATS = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.float64))
_INDICES = frozenset((torch.int32, torch.int64))


def check_matrix(name: str, x: Tensor) -> None:
    """Check that `x` is a float matrix (N, D)."""
    if x.dim() != 2:
        raise ValueError(f"{name} must be a matrix (N, D); got shape {tuple(x.shape)}")
    check_float(name, x.dtype)
    _check_strided(name, x)


def check_written(name: str, x: Tensor) -> None:
    """Check that `x` is a float matrix that an operator may write to, unseen by autograd."""
    check_matrix(name, x)
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"{name} must not require a gradient; got one that does: the operator has no "
            "derivative, call it under torch.no_grad()"
        )
    if any(size > 1 and step == 0 for size, step in zip(x.shape, x.stride(), strict=True)):
        raise ValueError(
            f"{name} must have a place in memory for each element; got strides {x.stride()}"
        )


def check_float(name: str, dtype: torch.dtype) -> None:
    """Check that `dtype` is a float type that has kernels."""
    if dtype not in _FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64; got {dtype}")


def check_bits(bits: int) -> None:
    """Check that a code may have this number of bits."""
    if bits not in BITS:
        raise ValueError(f"bits must be one of 1, 2, 4, 8; got {bits}")


def check_probability(probability: float) -> None:
    """Check that `probability` is in [0, 1]."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1]; got {probability}")


def check_index(name: str, index: Tensor, device: torch.device) -> int:
    """Check that `index` is a list of row numbers; return its length."""
    check_tensor(name, index, (index.numel(),), torch.int64, device)
    return index.shape[0]


def check_stream(stream: Tensor, x: Tensor, first_row: int) -> None:
    """Check that `stream` is one for `x` and has noise from `first_row` on."""
    check_tensor("stream", stream, (2,), torch.int64, x.device)
    if first_row < 0:
        raise ValueError(f"first_row must be at least 0; got {first_row}")
    num_rows, num_columns = x.shape
    most = 2**63 // (num_columns // 8 + 1) - num_rows  # blocks of the generator have 63 bits
    if first_row >= most:
        raise ValueError(
            f"first_row must be below {most} for a matrix of shape {tuple(x.shape)}; "
            f"got {first_row}"
        )


def check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Check the shape, type and device of a tensor."""
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {tuple(tensor.shape)}")
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}; got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}; got {tensor.device}")
    _check_strided(name, tensor)


def _check_strided(name: str, tensor: Tensor) -> None:
    if not torch.compiler.is_compiling() and tensor.layout != torch.strided:
        raise ValueError(f"{name} must be dense (torch.strided); got {tensor.layout}")


def check_csr(crow: Tensor, col: Tensor, values: Tensor, dense: Tensor) -> None:
    """Check a CSR matrix and `dense`, its right-hand side, as far as shapes and types tell."""
    check_matrix("dense", dense)
    if crow.dim() != 1 or crow.shape[0] == 0:
        raise ValueError(f"crow must have shape (M + 1,); got {tuple(crow.shape)}")
    if crow.dtype not in _INDICES:
        raise TypeError(f"crow must be int32 or int64; got {crow.dtype}")
    if col.dim() != 1:
        raise ValueError(f"col must have shape (E,); got {tuple(col.shape)}")
    check_tensor("crow", crow, tuple(crow.shape), crow.dtype, dense.device)
    check_tensor("col", col, tuple(col.shape), crow.dtype, dense.device)
    check_tensor("values", values, tuple(col.shape), dense.dtype, dense.device)
