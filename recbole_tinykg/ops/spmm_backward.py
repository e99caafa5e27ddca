"""Both gradients of the product of `spmm`, in one sweep over the entries."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.checks import check_csr, check_tensor, check_written

_spmm_backward_ = torch.ops.recbole_tinykg.spmm_backward_.default


def spmm_backward_(
    out: Tensor,  # (N, D), no memory in common with dense or grad
    crow: Tensor,  # (M + 1,) int32 or int64, from 0 to E
    col: Tensor,  # (E,) same type
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    grad: Tensor,  # (M, D) gradient of `spmm(crow, col, values, dense)`
) -> Tensor:  # (E,)
    """Add the gradient of `dense` to `out`, in place, and return that of the values.

    Entry (i, j) adds `value * grad[i]` to `out[j]`, and its gradient is `grad[i] @ dense[j]`:
    no transpose of A is needed and no (E, D) matrix built, and runs repeat bit for bit. On a CPU
    sums are in the order of the entries, each rounded to `out`'s type. On a GPU, where a block
    reads all column numbers and adds up its own, up to some 300,000 entries are best (csrc/cuda).

    Raises:
        RuntimeError: An index is out of range, or crow does not cover the entries: on a CPU before
            anything is written, on a GPU, for which nobody waits, when the device's assertion is
            noticed; or `out` requires a gradient and autograd is on.
        TypeError: Index types differ or are not integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    check_csr(crow, col, values, dense)
    check_tensor("grad", grad, (crow.shape[0] - 1, dense.shape[1]), dense.dtype, dense.device)
    check_tensor("out", out, tuple(dense.shape), dense.dtype, dense.device)
    check_written("out", out)
    if out is dense or out is grad:
        raise ValueError("out must be neither dense nor grad: they are read after it was written")
    return _spmm_backward_(out, crow, col, values, dense, grad)
