"""The graphs that a RecBole `KnowledgeBasedDataset` holds, as tensors.

Edges are interactions of the training split and triples of the knowledge graph; nodes are users,
entities, or both, users first. Items are the first entities.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_tinykg.graph.interactions import Interactions
from recbole_tinykg.graph.relational_graph import RelationalGraph


class Edges(NamedTuple):
    """Edges of a graph: (E,) integers each."""

    head: Tensor
    relation: Tensor
    tail: Tensor


def collaborative_edges(dataset: Any) -> Edges:
    """Edges of a RecBole `KnowledgeBasedDataset` (training split) over users, then entities."""
    graph = dataset.ckg_graph(form="coo", value_field="relation_id")
    head, relation, tail = (torch.as_tensor(a) for a in (graph.row, graph.data, graph.col))
    return Edges(head, relation, tail)


def knowledge_triples(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Heads, relations and tails (T,) int64 of a RecBole `KnowledgeBasedDataset`."""
    graph = dataset.kg_graph(form="coo", value_field="relation_id")
    head, relation, tail = (torch.as_tensor(a).long() for a in (graph.row, graph.data, graph.col))
    return head, relation, tail


def relational_graph(dataset: Any) -> RelationalGraph:
    """Graph of a RecBole `KnowledgeBasedDataset` (training split)."""
    pairs = dataset.inter_matrix(form="coo")
    user, item = (torch.as_tensor(column).long() for column in (pairs.row, pairs.col))
    interactions = Interactions(user, item, (dataset.user_num, dataset.item_num))
    triples = knowledge_triples(dataset)
    return RelationalGraph(triples, interactions, dataset.entity_num, dataset.relation_num)
