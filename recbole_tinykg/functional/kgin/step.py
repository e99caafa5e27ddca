"""What is fixed for a step of KGIN: its graph, the edges that it keeps, its dropout, its batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.kgin.edge_sampling import sample_edges
from recbole_tinykg.graph.relational_graph import EdgeWeights, RelationalGraph
from recbole_tinykg.quantization.quantizer import Quantizers

SAMPLING_SITES = 2
"""Streams of a step: the edges that are kept, the dropout of interactions."""

SITES_PER_HOP = 7
"""Streams of a hop: means, two each of users and heads, dropout of users and of entities."""


HIDDEN_HOP_MAPS = ("item_means", "users", "users_again", "heads", "heads_again")
"""What the first sites of a hidden hop are the noise of; the last hop has the means only."""


@dataclass(frozen=True)
class IntentPropagation:
    """What is fixed for a call.

    Attributes:
        graph: the knowledge graph and the interactions.
        quantizer: how activations are kept, at the sites that follow `SAMPLING_SITES`.
        num_hops: L.
        kept_share: share of the edges that a step draws and keeps; 0 keeps all.
        dropout: probability of message dropout, 0 in evaluation.
    """

    graph: RelationalGraph
    quantizer: Quantizers
    num_hops: int
    kept_share: float = 0.0
    dropout: float = 0.0

    def edge_mask(self, streams: Tensor) -> Tensor | None:
        """(E,) the edges that the step at `streams` keeps, None for all."""
        num_edges = self.graph.num_edges
        if self.kept_share == 0:
            return None
        return sample_edges(streams[0], num_edges, int(num_edges * self.kept_share))

    def weights(self, edges: Tensor, streams: Tensor, transposed: bool) -> EdgeWeights:
        """Weights of a step; interactions are dropped out only where edges are left out."""
        probability = self.dropout if self.kept_share > 0 else 0.0
        sample = self.graph.interactions.sample(streams[1], probability, transposed)
        return self.graph.weights(edges, sample.to(edges.dtype))

    def drop(self, x: Tensor, stream: Tensor) -> Tensor:
        """Dropout of messages (N, D), and of their gradients."""
        return x if self.dropout == 0 else ops.dropout(x, stream, probability=self.dropout)


@dataclass(frozen=True)
class Batch:
    """Unique users (U,) and unique items (I,) whose rows are wanted."""

    users: Tensor
    items: Tensor
