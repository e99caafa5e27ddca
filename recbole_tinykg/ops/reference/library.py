"""What the libraries' sparse product is given: exactly what they take.

MKL and cuSPARSE get bare pointers. They read row pointers that are not contiguous, or that begin
within the entries, as if they were neither, and so numbers that are no entries, without a word. So
this is the one place that builds their matrix: pointers contiguous, from 0 to the number of
entries; columns and values contiguous, and cut to those entries; one integer type.

`torch.sparse.check_sparse_tensor_invariants` switches on that all of it is checked, as PyTorch does
with matrices of its own, except that the columns of a row need not rise nor differ: the products
do not ask for it, and graphs have parallel edges.
"""

from __future__ import annotations

import torch
from torch import Tensor


def library_matrix(
    crow: Tensor,  # (M + 1,) of any stride, from 0 or more to E or less
    col: Tensor,  # (E,)
    values: Tensor,  # (E,)
    num_columns: int,
) -> Tensor:  # (M, num_columns), sparse CSR
    """Return the matrix as the libraries take it; on a GPU it waits for two of the pointers."""
    first, last = torch.stack((crow[0], crow[-1])).tolist()
    crow = (crow - first if first else crow).contiguous()
    col = col[first:last].to(crow.dtype).contiguous()
    values = values[first:last].contiguous()
    if torch.sparse.check_sparse_tensor_invariants.is_enabled():
        _check(crow, col, values, num_columns)
    shape = (crow.shape[0] - 1, num_columns)
    return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


def library_dense(x: Tensor) -> Tensor:  # (N, D)
    """Return `x`, or a copy, as a matrix whose rows are dense and do not overlap."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


def _check(crow: Tensor, col: Tensor, values: Tensor, num_columns: int) -> None:
    """Check everything that the libraries take for granted."""
    parts = {"crow": crow, "col": col, "values": values}
    for name, part in parts.items():
        if not (part.layout == torch.strided and part.dim() == 1 and part.is_contiguous()):
            raise RuntimeError(f"{name} must be a contiguous list; got strides {part.stride()}")
    if crow.dtype != col.dtype or len(col) != len(values):
        raise RuntimeError("col must have crow's type and as many numbers as values")
    if crow[0] != 0 or crow[-1] != len(col) or (crow.diff() < 0).any():
        raise RuntimeError(f"crow must rise from 0 to the number of entries, {len(col)}")
    if ((col < 0) | (col >= num_columns)).any():
        raise RuntimeError(f"col must hold columns of the matrix, which has {num_columns}")
