"""The derivative of row normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.checks import check_matrix, check_tensor

_normalize_backward = torch.ops.recbole_tinykg.normalize_backward.default


def normalize_backward(
    grad: Tensor,  # (N, D)
    x: Tensor,  # (N, D)
    shrink: Tensor,  # (N,)
    *,
    eps: float,
) -> Tensor:  # (N, D)
    """Return the gradient of x through `y = x / max(|x|, eps)`, row by row.

    With `length = max(|x|, eps)` it is `(grad - (grad . y) y) / length`. Rows shorter than
    `eps`, where y is linear in x, take `(grad + shrink * y) / length`: `shrink` is what a
    regulariser of y adds there (0 without one); for longer rows that part is zero.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape or a device is wrong.
    """
    check_matrix("x", x)
    check_tensor("grad", grad, tuple(x.shape), x.dtype, x.device)
    check_tensor("shrink", shrink, (x.shape[0],), x.dtype, x.device)
    return _normalize_backward(grad, x, shrink, eps=eps)
