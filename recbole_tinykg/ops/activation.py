"""Sign masks, LeakyReLU's derivative, dropout, and LeakyReLU with dropout in one sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops import reference
from recbole_tinykg.ops.checks import (
    check_matrix,
    check_probability,
    check_stream,
    check_tensor,
    check_written,
)

_sign_mask = torch.ops.recbole_tinykg.sign_mask.default
_leaky_relu_backward = torch.ops.recbole_tinykg.leaky_relu_backward.default
_dropout = torch.ops.recbole_tinykg.dropout.default
_leaky_relu_dropout_ = torch.ops.recbole_tinykg.leaky_relu_dropout_.default
_leaky_relu_dropout_backward = torch.ops.recbole_tinykg.leaky_relu_dropout_backward.default


def sign_mask(x: Tensor) -> Tensor:  # (N, D) -> (N, ceil(D / 8)) uint8
    """Keep one bit per element: bit `j % 8` of byte `j // 8` is `x[:, j] > 0`.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: `x` is not a matrix.
    """
    check_matrix("x", x)
    return _sign_mask(x)


def leaky_relu_backward(
    grad: Tensor,  # (N, D)
    mask: Tensor,  # (N, ceil(D / 8)) uint8
    *,
    negative_slope: float,
) -> Tensor:  # (N, D)
    """Multiply `grad` by 1 where `mask` has a bit and by `negative_slope` elsewhere.

    With `mask = sign_mask(x)` this is the derivative of LeakyReLU at x; ReLU is slope 0.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape or a device is wrong.
    """
    check_matrix("grad", grad)
    _check_mask(mask, grad)
    return _leaky_relu_backward(grad, mask, negative_slope=negative_slope)


def dropout(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    *,
    probability: float,
    first_row: int = 0,
) -> Tensor:  # (N, D)
    """Zero elements at random and scale the others so that the mean is kept.

    The mask is a function of the stream, so nothing is saved for backward, which is the same call
    on the gradient. The probability is rounded to a multiple of 2**-16, and the scale is that of
    the rounded probability.

    Args:
        x: Matrix.
        stream: Seed and position of the random stream, on the device of `x`.
        probability: Probability of zeroing an element, in [0, 1].
        first_row: Row of the random stream that the first row of `x` takes.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device, `probability` or `first_row` is wrong.
    """
    check_matrix("x", x)
    check_stream(stream, x, first_row)
    check_probability(probability)
    return _dropout(x, stream, probability=probability, first_row=first_row)


def leaky_relu_dropout_(
    x: Tensor,  # (N, D), any strides
    stream: Tensor,  # (2,) int64: seed, position
    addend: Tensor | None = None,  # (N, D), no memory in common with x, or x itself
    *,
    negative_slope: float,
    probability: float,
    first_row: int = 0,
) -> Tensor:  # (N, ceil(D / 8)) uint8
    """Replace x by `dropout(leaky_relu(x) + addend)` in one sweep; return the old x's `sign_mask`.

    The dropout is that of `dropout`; with probability 0 nothing is dropped and no noise is drawn.

    Raises:
        RuntimeError: `x` requires a gradient and autograd is on.
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device, `probability` or `first_row` is wrong.
    """
    check_written("x", x)
    check_stream(stream, x, first_row)
    check_probability(probability)
    if addend is not None:
        check_tensor("addend", addend, tuple(x.shape), x.dtype, x.device)
    return _leaky_relu_dropout_(
        x,
        stream,
        addend,
        negative_slope=negative_slope,
        probability=probability,
        first_row=first_row,
    )


def leaky_relu_dropout_backward(
    grad: Tensor,  # (N, D)
    mask: Tensor,  # (N, ceil(D / 8)) uint8
    stream: Tensor,  # (2,) int64: seed, position
    *,
    negative_slope: float,
    probability: float,
    first_row: int = 0,
) -> tuple[Tensor, Tensor]:  # (N, D), (N, D)
    """Return the gradients of x and of the addend of `leaky_relu_dropout_`, in one sweep.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device, `probability` or `first_row` is wrong.
    """
    check_matrix("grad", grad)
    _check_mask(mask, grad)
    check_stream(stream, grad, first_row)
    check_probability(probability)
    return _leaky_relu_dropout_backward(
        grad,
        mask,
        stream,
        negative_slope=negative_slope,
        probability=probability,
        first_row=first_row,
    )


def _check_mask(mask: Tensor, grad: Tensor) -> None:
    packed = (grad.shape[0], reference.packed_bytes(grad.shape[1], 1))
    check_tensor("mask", mask, packed, torch.uint8, grad.device)
