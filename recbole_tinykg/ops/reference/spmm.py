"""Sparse times dense in plain PyTorch: the library's product (MKL, cuSPARSE or PyTorch's own)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.reference.checks import check_pointers, check_rows, check_rows_or_none
from recbole_tinykg.ops.reference.library import library_dense, library_matrix


def spmm(
    crow: Tensor,  # (M + 1,)
    col: Tensor,  # (E,)
    values: Tensor,  # (E,)
    dense: Tensor,  # (N, D)
    rows: Tensor | None = None,  # (R,)
    places: Tensor | None = None,  # (K,)
) -> Tensor:  # (M, D), or (R, D) with rows
    """Return `A @ dense` for A in CSR; see `ops.spmm` for the arguments."""
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
    """Add `A @ dense` to `out` for A in CSR; on a CPU 16-bit types are summed in float32."""
    check_pointers(crow, col.shape[0])
    if rows is not None:
        check_rows_or_none("rows", rows, crow.shape[0] - 1, "the sparse matrix")
        crow, col, values = select_rows(crow, col, values, rows)
    if places is not None:
        check_rows_or_none("places", places, dense.shape[0], "dense")
        dense = torch.cat([dense, dense.new_zeros(1, dense.shape[1])])
        dense = dense[torch.where(places < 0, -1, places).long()]
    check_rows("col", col, dense.shape[0], "dense")
    if places is not None:  # zero times a value that is not finite would not be zero
        values = values.masked_fill(places.index_select(0, col) < 0, 0)
    narrow = dense.device.type == "cpu" and dense.element_size() == 2
    dtype = torch.float32 if narrow else dense.dtype
    matrix = library_matrix(crow, col, values.to(dtype), dense.shape[0])
    total = library_dense(out.to(dtype))
    dense = library_dense(dense.to(dtype))
    torch.addmm(total, matrix, dense, out=total)  # autocast leaves out= calls alone
    if total is not out:
        out.copy_(total)


def select_rows(
    crow: Tensor, col: Tensor, values: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the CSR matrix of the rows `rows`, where -1 is a row without entries."""
    row = rows.clamp(min=0).long()
    start = crow.index_select(0, row)
    count = crow.index_select(0, row + (rows >= 0)) - start
    pointers = torch.cat([count.new_zeros(1), count.cumsum(0, dtype=crow.dtype)])
    shift = torch.repeat_interleave(start - pointers[:-1], count.long())
    source = torch.arange(len(shift), dtype=crow.dtype, device=shift.device).add_(shift)
    return pointers, col.index_select(0, source), values.index_select(0, source)
