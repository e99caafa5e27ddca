"""A fixed number of edges drawn without replacement, from a position of the random stream.

Every edge gets 16 random bits as its key, and the edges with the smallest keys are kept. Ties at
the threshold (one or two of 91,631 edges) are broken by the distance from a random edge, so no edge
has a better chance than another. The same position gives the same set again, but drawing costs more
than a sparse product, so backward reads one saved bit per edge instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg import ops

_KEYS = 2**16


def sample_edges(stream: Tensor, num_edges: int, num_kept: int) -> Tensor:  # (num_edges,) bool
    """Mark exactly `num_kept` edges, a uniform draw at the position `stream` (2,)."""
    noise = ops.random_bits(stream, 0, torch.Size((1, num_edges + 2)))[0]
    key = noise[:num_edges]
    total = torch.bincount(key, minlength=_KEYS).cumsum(0)
    threshold = torch.searchsorted(total, num_kept, right=True).clamp_(max=_KEYS - 1)
    kept = key < threshold
    tied = (key == threshold).nonzero().view(-1)
    first = noise[num_edges] * _KEYS + noise[num_edges + 1]
    nearest = torch.argsort((tied - first) % num_edges)
    missing = num_kept - int(kept.sum())
    kept[tied[nearest[:missing]]] = True
    return kept


def pack_mask(mask: Tensor) -> Tensor:  # (E,) -> (1, ceil(E / 8)) uint8
    """Return one bit per edge."""
    return ops.sign_mask(mask[None].float())


def unpack_mask(bits: Tensor, num_edges: int, dtype: torch.dtype) -> Tensor:  # (E,) of dtype
    """Return the inverse of `pack_mask`, as zeros and ones."""
    ones = torch.ones(1, num_edges, dtype=dtype, device=bits.device)
    return ops.leaky_relu_backward(ones, bits, negative_slope=0.0)[0]
