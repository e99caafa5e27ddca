"""Sparse times dense: the product of a CSR matrix and a matrix, new or added to one."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.checks import check_csr, check_index, check_tensor, check_written

_spmm = torch.ops.recbole_tinykg.spmm.default
_spmm_add_ = torch.ops.recbole_tinykg.spmm_add_.default


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
        places: The row of `dense` for each column of A, -1 if `dense` lacks it and its entries
            are left out; if None, column k takes row k. So `dense` may hold a few rows of a large
            matrix.

    crow, rows and places may have any stride, and crow need not cover all entries. On a CPU sums
    are in the order of the entries, on a GPU in one that shapes and crow decide: neither depends on
    the threads, and runs repeat bit for bit. 16-bit types are summed in float32.

    Raises:
        RuntimeError: An index is out of range: on a CPU before anything is read there, on a GPU,
            for which nobody waits, when the device's assertion is noticed, as in PyTorch.
        TypeError: Index types differ or are not integers, or value types differ.
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
    """Add the product that `spmm` returns to `out`, in place.

    Raises:
        RuntimeError: An index is out of range, as in `spmm` (rows of `out` may have been added to);
            or `out` requires a gradient and autograd is on.
        TypeError: Index types differ or are not integers, or value types differ.
        ValueError: A shape or a device is wrong.
    """
    num_rows = _check_product(crow, col, values, dense, rows, places)
    check_tensor("out", out, (num_rows, dense.shape[1]), dense.dtype, dense.device)
    check_written("out", out)
    if out is dense:
        raise ValueError("out must not be dense: rows are read after others were written")
    _spmm_add_(out, crow, col, values, dense, rows, places)
    return out


def _check_product(
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    dense: Tensor,
    rows: Tensor | None,
    places: Tensor | None,
) -> int:
    """Check the arguments of a product; return its number of rows."""
    check_csr(crow, col, values, dense)
    if places is not None:
        check_tensor("places", places, (places.numel(),), torch.int32, dense.device)
    return crow.shape[0] - 1 if rows is None else check_index("rows", rows, dense.device)
