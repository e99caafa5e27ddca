"""Both gradients of the product of `spmm` in plain PyTorch: gathers and an `index_add_`."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.checks import check_rows


def spmm_backward_(
    out: Tensor,  # (N, D)
    crow: Tensor,  # (M + 1,)
    col: Tensor,  # (E,)
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    grad: Tensor,  # (M, D)
) -> Tensor:  # (E,)
    """Add `A.t() @ grad` to `out`; return the gradient of the values, grad's row times dense's."""
    num_entries = col.shape[0]
    if crow.device.type == "cpu" and (
        crow[0] != 0 or crow[-1] != num_entries or (crow[1:] < crow[:-1]).any()
    ):
        raise RuntimeError(f"crow must rise from 0 to the number of entries, {num_entries}")
    check_rows("col", col, dense.shape[0], "dense")
    row = torch.repeat_interleave(crow.diff(), output_size=num_entries)
    received = grad.index_select(0, row)
    grad_values = (received * dense.index_select(0, col)).sum(1)
    out.index_add_(0, col, received.mul_(values[:, None]))
    return grad_values
