"""A fixed number of edges drawn without replacement, from a position of the random stream.

Every edge gets 16 random bits as its key, and the edges with the smallest keys are kept. Which of
those that tie at the threshold (one or two of 91,631 edges) are kept is decided by their distance
from a random edge, so that no edge has a better chance than another. The same position gives the
same set: nothing needs keeping, and what is kept nevertheless is one bit per edge, because drawing
again would cost more than a sparse product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.ops.reference.noise import draw

_KEYS = 2**16


def sample_edges(stream: Tensor, num_edges: int, num_kept: int) -> Tensor:  # (num_edges,) bool
    """Mark exactly `num_kept` edges, a uniform draw at the position `stream` (2,)."""
    noise = draw(stream, 0, torch.Size((1, num_edges + 2)))[0]
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
    """One bit per edge."""
    return ops.sign_mask(mask[None].float())


def unpack_mask(bits: Tensor, num_edges: int, dtype: torch.dtype) -> Tensor:  # (E,) of dtype
    """The inverse of `pack_mask`, as zeros and ones."""
    ones = torch.ones(1, num_edges, dtype=dtype, device=bits.device)
    return ops.leaky_relu_backward(ones, bits, negative_slope=0.0)[0]
