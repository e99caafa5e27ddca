"""A fixed number of edges drawn without replacement, from a position of the random stream.

Every edge gets 16 random bits as its key, and the edges with the smallest keys are kept. Ties at
the threshold (one or two of 91,631 edges) are broken by the distance from a random edge, so no edge
has a better chance than another; a running sum over the ties is their order in it, so that no shape
depends on how many there are. The same position gives the same set again, but drawing costs more
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
    counts = torch.zeros(_KEYS, dtype=torch.int64, device=key.device)
    counts.scatter_add_(0, key, torch.ones_like(key))
    total = counts.cumsum(0)  # edges with keys up to each
    wanted = torch.full((1,), num_kept, device=key.device)
    threshold = torch.searchsorted(total, wanted, right=True).clamp_(max=_KEYS - 1)
    kept, tied = key < threshold, key == threshold
    num_tied = counts.index_select(0, threshold)
    missing = num_kept - total.index_select(0, threshold) + num_tied
    first = (noise[num_edges] * _KEYS + noise[num_edges + 1]).view(1) % num_edges
    return kept | _next_marked(tied, num_tied, first, missing)


def _next_marked(
    marked: Tensor,  # (E,) bool
    num_marked: Tensor,  # (1,)
    first: Tensor,  # (1,)
    num_chosen: Tensor,  # (1,)
) -> Tensor:  # (E,) bool
    """Return the next `num_chosen` of the marked edges from edge `first` on, all round.

    Of marked edges numbered from 1, those are (before, before + num_chosen], and then the first.
    """
    number = marked.cumsum(0, dtype=torch.int32)
    before = number.index_select(0, first) - marked.index_select(0, first).int()
    last = (before + num_chosen).int()
    chosen = (number > before) & (number <= last) | (number <= (last - num_marked).int())
    return chosen & marked


def pack_mask(mask: Tensor) -> Tensor:  # (E,) -> (1, ceil(E / 8)) uint8
    """Return one bit per edge."""
    return ops.sign_mask(mask[None].float())


def unpack_mask(bits: Tensor, num_edges: int, dtype: torch.dtype) -> Tensor:  # (E,) of dtype
    """Return the inverse of `pack_mask`, as zeros and ones."""
    ones = torch.ones(1, num_edges, dtype=dtype, device=bits.device)
    return ops.leaky_relu_backward(ones, bits, negative_slope=0.0)[0]
