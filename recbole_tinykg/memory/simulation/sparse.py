"""Operators on sparse tensors, for which PyTorch has no shape rules.

Indices are real, so what depends on them alone (transposing, coalescing, converting) is run on a
stand-in whose values are zero. Products of a sparse and a dense matrix have a rule here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

PARTS = (
    *("_indices", "_values", "indices", "values", "crow_indices", "col_indices"),
    *("ccol_indices", "row_indices", "detach", "alias"),
)
"""Views of a sparse tensor that share its memory."""

_PRODUCTS = ("mm", "addmm", "_sparse_addmm", "_sparse_mm")


def is_sparse(tensor: Tensor) -> bool:
    """Whether a tensor consists of indices and values."""
    return tensor.layout is not torch.strided


def product_shape(func: OpOverload, args: Sequence[Any]) -> Tensor | None:
    """Return a product of a sparse and a dense matrix, on `meta`; None for other operators."""
    name = func._schema.name.partition("::")[2]
    factors = [arg for arg in args if isinstance(arg, Tensor)][-2:]
    if name not in _PRODUCTS or len(factors) < 2 or is_sparse(factors[1]):
        return None
    shape = factors[0].shape[0], factors[1].shape[1]
    return torch.empty(shape, dtype=factors[1].dtype, device="meta")


def stand_in(tensor: Tensor) -> Tensor:
    """Make a sparse tensor with the same indices and zeros for values."""
    values = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    zeros = torch.zeros(values.shape, dtype=values.dtype, device=values.device)
    if tensor.layout is torch.sparse_coo:
        indices, shape = tensor._indices(), tensor.shape
        is_coalesced = tensor.is_coalesced()
        return torch.sparse_coo_tensor(
            indices, zeros, shape, check_invariants=False, is_coalesced=is_coalesced
        )
    parts = tensor.crow_indices(), tensor.col_indices()
    return torch.sparse_csr_tensor(*parts, zeros, tensor.shape, check_invariants=False)
