"""Sparse times dense."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.checks import check_csr, check_index, check_tensor, check_written

_spmm = torch.ops.recbole_tinykg.spmm.default
_spmm_add_ = torch.ops.recbole_tinykg.spmm_add_.default
_spmm_backward_ = torch.ops.recbole_tinykg.spmm_backward_.default


def spmm(
    crow: Tensor,  # (M + 1,) int32 or int64
    col: Tensor,  # (E,) same type
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    rows: Tensor | None = None,  # (R,) int64
    places: Tensor | None = None,  # (K,) int32
) -> Tensor:  # (M, D), or (R, D) with rows
    """Multiply the CSR matrix A = (crow, col, values) by `dense`.

    Args:
        crow: Where each row's entries begin, and the number of entries.
        col: Column of each entry.
        values: Value of each entry.
        dense: The right-hand side.
        rows: The rows of A to compute, all if None; -1 is a row without entries.
        places: Where a column's row lies in `dense`, -1 if it is absent and its entries count
            for nothing; if None, column k is row k. So `dense` may hold a few rows of a large
            matrix.

    On a CPU the sums are in the order of the entries, so they do not depend on the threads, and
    16-bit types are summed in float32. On a GPU the numbers in crow, col, rows and places are not
    checked: it would have to be waited for. There only `rows` waits, for the number of entries.

    Raises:
        RuntimeError: On a CPU, an index is out of range.
        TypeError: Index types differ or are no integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    _check_product(crow, col, values, dense, rows, places)
    return _spmm(crow, col, values, dense, rows, places)


def spmm_add_(
    out: Tensor,  # (M, D), or (R, D) with rows
    crow: Tensor,  # (M + 1,) int32 or int64
    col: Tensor,  # (E,) same type
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D), no memory in common with out
    rows: Tensor | None = None,  # (R,) int64
    places: Tensor | None = None,  # (K,) int32
) -> Tensor:  # out
    """Add the product that `spmm` gives to `out`, in place.

    Raises:
        RuntimeError: On a CPU, an index is out of range (rows of `out` may have been added to);
            or `out` requires a gradient and autograd is on.
        TypeError: Index types differ or are no integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    num_rows = _check_product(crow, col, values, dense, rows, places)
    check_tensor("out", out, (num_rows, dense.shape[1]), dense.dtype, dense.device)
    check_written("out", out)
    if out is dense:
        raise ValueError("out must not be dense: rows are read after others were written")
    _spmm_add_(out, crow, col, values, dense, rows, places)
    return out


def spmm_backward_(
    out: Tensor,  # (N, D), no memory in common with dense or grad
    crow: Tensor,  # (M + 1,) int32 or int64, from 0 to E
    col: Tensor,  # (E,) same type
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    grad: Tensor,  # (M, D) gradient of `spmm(crow, col, values, dense)`
) -> Tensor:  # (E,)
    """Add the gradient of `dense` to `out`, in place, and give that of the values.

    Entry (i, j) adds `value * grad[i]` to `out[j]`, and its gradient is `grad[i] @ dense[j]`:
    one sweep over the entries that needs no transpose of A. On a CPU nothing of E x D is built, and
    the sums are in the order of the entries, rounded to `out`'s type one by one. On a GPU, where
    the numbers are not checked, it is PyTorch's gathers and atomic additions.

    Raises:
        RuntimeError: On a CPU, an index is out of range, or crow does not cover the entries; or
            `out` requires a gradient and autograd is on.
        TypeError: Index types differ or are no integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    check_csr(crow, col, values, dense)
    check_tensor("grad", grad, (crow.shape[0] - 1, dense.shape[1]), dense.dtype, dense.device)
    check_tensor("out", out, tuple(dense.shape), dense.dtype, dense.device)
    check_written("out", out)
    if out is dense or out is grad:
        raise ValueError("out must be neither dense nor grad: they are read after it was written")
    return _spmm_backward_(out, crow, col, values, dense, grad)


def _check_product(
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    dense: Tensor,
    rows: Tensor | None,
    places: Tensor | None,
) -> int:
    """Number of rows of the product."""
    check_csr(crow, col, values, dense)
    if places is not None:
        check_tensor("places", places, (places.numel(),), torch.int32, dense.device)
    return crow.shape[0] - 1 if rows is None else check_index("rows", rows, dense.device)
