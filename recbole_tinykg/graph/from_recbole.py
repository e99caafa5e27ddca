"""Edges of a RecBole `KnowledgeBasedDataset` as tensors, and the graph that KGIN makes of them.

Edges are interactions of the training split and triples of the knowledge graph. Nodes are users,
entities, or both, users first; items are the first entities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.graph.interactions import Interactions
from recbole_tinykg.graph.relational_graph import RelationalGraph
from recbole_tinykg.graph.triples import Triples


def collaborative_edges(dataset: Any) -> Triples:
    """Return the edges of the training split over users, then entities."""
    graph = dataset.ckg_graph(form="coo", value_field="relation_id")
    return Triples(*map(torch.as_tensor, (graph.row, graph.data, graph.col)))


def knowledge_triples(dataset: Any) -> Triples:
    """Return the triples of the knowledge graph, int64."""
    columns = (dataset.head_entities, dataset.relations, dataset.tail_entities)
    return Triples(*(torch.as_tensor(column, dtype=torch.int64) for column in columns))


def user_item_pairs(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return user and item (E,) int64 of each interaction of the training split."""
    pairs = dataset.inter_matrix(form="coo")
    user, item = (torch.as_tensor(column, dtype=torch.int64) for column in (pairs.row, pairs.col))
    return user, item


def relational_graph(dataset: Any) -> RelationalGraph:
    """Build KGIN's graph of the training split."""
    sizes = dataset.user_num, dataset.item_num
    interactions = Interactions(*user_item_pairs(dataset), sizes)
    triples = knowledge_triples(dataset)
    return RelationalGraph(triples, interactions, dataset.entity_num, dataset.relation_num)
