"""Some nodes of a graph whose embeddings lie in two tables, users and entities (KGAT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor]
"""One tensor for each of the two tables."""


@dataclass(frozen=True)
class NodeRows:
    """Unique nodes, those of the first part before those of the second.

    Attributes:
        nodes: (R,) int64 node numbers over both parts.
        num_first: How many of them lie in the first part.
        offset: Number of nodes in the first part.
    """

    nodes: Tensor
    num_first: int
    offset: int

    @classmethod
    def from_parts(cls, first: Tensor, second: Tensor, offset: int) -> NodeRows:
        """Make them from unique row numbers within each part, (R_0,) and (R_1,)."""
        return cls(torch.cat([first, second + offset]), len(first), offset)

    @property
    def local(self) -> Parts:
        """Row numbers within each part, (R_0,) and (R_1,)."""
        return self.nodes[: self.num_first], self.nodes[self.num_first :] - self.offset

    def gather(self, parts: Parts) -> Tensor:
        """Return the rows (R, D) of parts (sizes[p], D)."""
        return torch.cat(
            [part.index_select(0, rows) for part, rows in zip(parts, self.local, strict=True)]
        )
