"""What is fixed for a step of KGIN: its graph, the edges that it keeps, its dropout, its batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.kgin.edge_sampling import sample_edges
from recbole_tinykg.graph.relational_graph import EdgeWeights, RelationalGraph
from recbole_tinykg.quantization import Sites, StepSites


def add_intent_sites(sites: Sites, num_hops: int) -> None:
    """Name a step's samples, and each hop's maps (the last one stores only means) and dropout."""
    sites.add("edges", stored=False)
    sites.add("interactions", stored=False)
    for hop in range(1, num_hops + 1):
        sites.add(f"hop{hop}.item_means")
        for name in ("users", "users_again", "heads", "heads_again"):
            sites.add(f"hop{hop}.{name}", stored=hop < num_hops)
        sites.add(f"hop{hop}.user_dropout", stored=False)
        sites.add(f"hop{hop}.head_dropout", stored=False)


@dataclass(frozen=True)
class IntentPropagation:
    """What is fixed for a call.

    Attributes:
        graph: The knowledge graph and the interactions.
        num_hops: L.
        kept_share: Share of the edges that a step draws and keeps; 0 keeps all.
        dropout: Probability of message dropout, 0 in evaluation.
    """

    graph: RelationalGraph
    num_hops: int
    kept_share: float = 0.0
    dropout: float = 0.0

    def edge_mask(self, sites: StepSites) -> Tensor | None:
        """Return the mask (E,) of the edges that the step keeps, None for all."""
        num_edges = self.graph.num_edges
        if self.kept_share == 0:
            return None
        return sample_edges(sites["edges"].stream, num_edges, int(num_edges * self.kept_share))

    def weights(self, edges: Tensor, sites: StepSites, transposed: bool) -> EdgeWeights:
        """Return the weights of a step; interactions are dropped out only if edges are left out."""
        probability = self.dropout if self.kept_share > 0 else 0.0
        stream = sites["interactions"].stream
        sample = self.graph.interactions.sample(stream, probability, transposed)
        return self.graph.weights(edges, sample.to(edges.dtype))

    def drop(self, x: Tensor, stream: Tensor) -> Tensor:
        """Drop out messages (N, D), or their gradients."""
        return x if self.dropout == 0 else ops.dropout(x, stream, probability=self.dropout)


@dataclass(frozen=True)
class BatchRows:
    """Unique users (U,) and unique items (I,) whose rows a batch reads.

    With `static_shapes` any may be -1: a row that stands for nothing, and whose gradient is zero.
    """

    users: Tensor
    items: Tensor
    static_shapes: bool = False
