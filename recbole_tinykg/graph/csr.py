"""What `ops.spmm` takes besides columns and values: where rows begin, and where they are.

Graphs hold these as buffers that move with the module and stay out of its `state_dict`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def register_buffers(module: nn.Module, **tensors: Tensor) -> None:
    """Register non-persistent buffers by their names."""
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor, persistent=False)


def row_pointers(counts: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """Return the CSR pointers (M + 1,) of rows with `counts` (M,) entries each."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(dtype)


def row_places(rows: Tensor, num_rows: int) -> Tensor:
    """Return the place (num_rows,) int32 of each row number in `rows`, -1 if it is not there.

    The numbers in `rows` (R,) int64 are distinct, except that any may be -1 for no row.
    """
    places = torch.full((num_rows + 1,), -1, dtype=torch.int32, device=rows.device)
    own = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
    places[rows] = own  # -1 writes to the last place, which is cut off
    return places[:num_rows]
