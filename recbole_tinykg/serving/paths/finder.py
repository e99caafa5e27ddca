"""Which models have attention over the knowledge graph, and what finds paths by it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import stock_name_of
from recbole_tinykg.serving.paths.attention import GraphAttention, NeighborAttention
from recbole_tinykg.serving.paths.knowledge import FoundPaths, KnowledgeGraph
from recbole_tinykg.serving.paths.ripples import RippleAttention


class PathFinder(Protocol):
    """A model's attention, ready for searches."""

    def find(self, user: int, history: np.ndarray, items: np.ndarray, num_paths: int) -> FoundPaths:
        """Return the paths of highest score from a user's known items (H,) to items (I,)."""


def path_finder(model: Any, graph: KnowledgeGraph) -> PathFinder:
    """Return what finds paths by the attention of a model, a twin or RecBole's own."""
    stock_name = stock_name_of(type(model))
    if stock_name == "KGAT":
        return GraphAttention(model)
    return RippleAttention(model, graph) if stock_name == "RippleNet" else NeighborAttention(model)


def check_attention(model: Any) -> None:
    """Raise ConfigurationError if a model has no attention over the graph."""
    if stock_name_of(type(model)) not in ("KGAT", "KGCN", "KGNNLS", "RippleNet"):
        raise ConfigurationError(
            f"paths must be 0 for {type(model).__name__}, which has no attention over the "
            "knowledge graph; KGAT, KGCN, KGNNLS, RippleNet and their twins have"
        )
