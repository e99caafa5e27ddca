"""Some nodes of a graph whose embeddings lie in two tables, users and entities (KGAT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_tinykg.graph.distinct import table_rows

Parts = tuple[Tensor, Tensor]
"""One tensor for each of the two tables."""


@dataclass(frozen=True)
class NodeRows:
    """Unique nodes, those of the first part before those of the second.

    Attributes:
        nodes: (R,) int64 node numbers over both parts, -1 for a row that stands for none.
        num_first: How many rows come before those of the second part.
        offset: Number of nodes in the first part.
    """

    nodes: Tensor
    num_first: int
    offset: int

    @classmethod
    def from_parts(cls, first: Tensor, second: Tensor, offset: int) -> NodeRows:
        """Make them from unique row numbers, or -1, within each part, (R_0,) and (R_1,)."""
        second = torch.where(second < 0, -1, second + offset)
        return cls(torch.cat([first, second]), len(first), offset)

    @property
    def local(self) -> Parts:
        """Row numbers within each part, (R_0,) and (R_1,), negative for none."""
        return self.nodes[: self.num_first], self.nodes[self.num_first :] - self.offset

    def gather(self, parts: Parts) -> Tensor:
        """Return the rows (R, D) of parts (sizes[p], D), any row for none."""
        return torch.cat(
            [table_rows(part, rows) for part, rows in zip(parts, self.local, strict=True)]
        )
