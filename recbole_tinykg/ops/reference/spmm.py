"""Sparse times dense in plain PyTorch: the library's product (MKL, cuSPARSE or PyTorch's own)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.quantize import check_rows


def spmm(
    crow: Tensor,  # (M + 1,)
    col: Tensor,  # (E,)
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    rows: Tensor | None = None,  # (R,)
    places: Tensor | None = None,  # (K,)
) -> Tensor:  # (M, D), or (R, D) with rows
    """`A @ dense` for A in CSR; see `ops.spmm` for the arguments."""
    num_rows = crow.shape[0] - 1 if rows is None else rows.shape[0]
    out = dense.new_zeros(num_rows, dense.shape[1])
    spmm_add_(out, crow, col, values, dense, rows, places)
    return out


def spmm_add_(
    out: Tensor,  # (M, D), or (R, D) with rows
    crow: Tensor,  # (M + 1,)
    col: Tensor,  # (E,)
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    rows: Tensor | None = None,  # (R,)
    places: Tensor | None = None,  # (K,)
) -> None:
    """`out += A @ dense` for A in CSR; on a CPU 16-bit types go by float32."""
    _check_pointers(crow, col.shape[0])
    if rows is not None:
        _check_rows_or_none("rows", rows, crow.shape[0] - 1, "the sparse matrix")
        crow, col, values = _select_rows(crow, col, values, rows)
    if places is not None:
        _check_rows_or_none("places", places, dense.shape[0], "dense")
        dense = torch.cat([dense, dense.new_zeros(1, dense.shape[1])])
        dense = dense[torch.where(places < 0, -1, places).long()]
    check_rows("col", col, dense.shape[0], "dense")
    if places is not None:  # zero times a value that is not finite would not be zero
        values = values.masked_fill(places.index_select(0, col) < 0, 0)
    narrow = dense.device.type == "cpu" and dense.element_size() == 2
    dtype = torch.float32 if narrow else dense.dtype
    shape = (crow.shape[0] - 1, dense.shape[0])
    matrix = torch.sparse_csr_tensor(crow, col, values.to(dtype), shape, check_invariants=False)
    total = out.to(dtype)
    torch.addmm(total, matrix, dense.to(dtype), out=total)  # autocast leaves out= calls alone
    if narrow:
        out.copy_(total)


def spmm_backward_(
    out: Tensor,  # (N, D)
    crow: Tensor,  # (M + 1,)
    col: Tensor,  # (E,)
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    grad: Tensor,  # (M, D)
) -> Tensor:  # (E,)
    """`out += A.t() @ grad`; gives the gradient of the values, grad's row times dense's."""
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


def _check_pointers(crow: Tensor, num_entries: int) -> None:
    """On a CPU, refuse row pointers that lead outside the entries."""
    if crow.device.type != "cpu":
        return
    if crow[0] < 0 or crow[-1] > num_entries or (crow[1:] < crow[:-1]).any():
        raise RuntimeError(
            f"crow must rise from 0 or more to the number of entries, {num_entries}, or less"
        )


def _check_rows_or_none(name: str, index: Tensor, num_rows: int, owner: str) -> None:
    """`check_rows` where a negative number is no row."""
    if index.device.type == "cpu":
        check_rows(name, index[index >= 0], num_rows, owner)


def _select_rows(
    crow: Tensor, col: Tensor, values: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """CSR of the rows `rows`, where -1 is a row without entries."""
    row = rows.clamp(min=0).long()
    start = crow.index_select(0, row)
    count = crow.index_select(0, row + (rows >= 0)) - start
    pointers = torch.cat([count.new_zeros(1), count.cumsum(0, dtype=crow.dtype)])
    shift = torch.repeat_interleave(start - pointers[:-1], count.long())
    source = torch.arange(len(shift), dtype=crow.dtype, device=shift.device).add_(shift)
    return pointers, col.index_select(0, source), values.index_select(0, source)
