"""The derivative of row normalisation in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.quantize import compute_dtype


def normalize_backward(
    grad: Tensor,  # (N, D)
    x: Tensor,  # (N, D)
    shrink: Tensor,  # (N,)
    *,
    eps: float,
) -> Tensor:  # (N, D)
    """Return `(grad + factor * y) / length`, with `y = x / length`, `length = max(|x|, eps)`.

    The factor is `-grad . y`, or `shrink` in rows shorter than `eps`.
    """
    g, x_wide = (t.contiguous().to(compute_dtype(x.dtype)) for t in (grad, x))
    norm = x_wide.norm(dim=1, keepdim=True)
    length = norm.clamp_min(eps)
    y = x_wide / length
    along = (g * y).sum(1, keepdim=True)
    factor = torch.where(norm >= eps, -along, shrink[:, None].to(norm.dtype))
    return ((g + factor * y) / length).to(x.dtype)
