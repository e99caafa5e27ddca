"""Sign masks, LeakyReLU's derivative and dropout in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.noise import draw
from recbole_tinykg.ops.reference.pack import pack, unpack
from recbole_tinykg.ops.reference.quantize import compute_dtype


def sign_mask(x: Tensor) -> Tensor:  # (N, D) -> (N, ceil(D / 8)) uint8
    """Set bit `j % 8` of byte `j // 8` to `x[:, j] > 0`."""
    return pack((x > 0).to(torch.uint8), 1)


def leaky_relu_backward(
    grad: Tensor,  # (N, D)
    mask: Tensor,  # (N, ceil(D / 8)) uint8
    *,
    negative_slope: float,
) -> Tensor:  # (N, D)
    """Multiply `grad` by 1 where the bit is set and by `negative_slope` elsewhere."""
    work = grad.contiguous().to(compute_dtype(grad.dtype))
    positive = unpack(mask, 1, grad.shape[1]) > 0
    return torch.where(positive, work, work * negative_slope).to(grad.dtype)


def dropout(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    *,
    probability: float,
    first_row: int = 0,
) -> Tensor:  # (N, D)
    """Zero elements with `probability`, a multiple of 2**-16; scale the others."""
    work = x.contiguous().to(compute_dtype(x.dtype))
    return _drop(work, stream, probability, first_row).to(x.dtype)


def leaky_relu_dropout_(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    addend: Tensor | None = None,  # (N, D)
    *,
    negative_slope: float,
    probability: float,
    first_row: int = 0,
) -> Tensor:  # (N, ceil(D / 8)) uint8
    """Set `x = dropout(leaky_relu(x) + addend)`; return the sign mask of the old x."""
    mask = sign_mask(x)
    work = x.to(compute_dtype(x.dtype))
    value = torch.where(work > 0, work, work * negative_slope)
    if addend is not None:
        value = value + addend.to(value.dtype)
    x.copy_(_drop(value, stream, probability, first_row))
    return mask


def leaky_relu_dropout_backward(
    grad: Tensor,  # (N, D)
    mask: Tensor,  # (N, ceil(D / 8)) uint8
    stream: Tensor,  # (2,) int64: seed, position
    *,
    negative_slope: float,
    probability: float,
    first_row: int = 0,
) -> tuple[Tensor, Tensor]:  # (N, D), (N, D)
    """Return the gradients of x and of the addend of `leaky_relu_dropout_`."""
    work = grad.contiguous().to(compute_dtype(grad.dtype))
    work = _drop(work, stream, probability, first_row)
    positive = unpack(mask, 1, grad.shape[1]) > 0
    grad_x = torch.where(positive, work, work * negative_slope)
    return grad_x.to(grad.dtype), work.to(grad.dtype)


def _drop(work: Tensor, stream: Tensor, probability: float, first_row: int) -> Tensor:
    """Drop elements of a matrix in the arithmetic type."""
    dropped = round(probability * 2**16)
    keep_scale = 2**16 / (2**16 - dropped) if dropped < 2**16 else 0.0
    kept = draw(stream, first_row, work.shape) >= dropped
    return work * (kept.to(work.dtype) * keep_scale)
