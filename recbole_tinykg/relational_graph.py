"""The graph of KGIN, read from a RecBole data set.

Edges are the triples of the knowledge graph, from head to tail; interactions are those of the
training split. Their arithmetic is in `functional.relational_graph`.
"""

from __future__ import annotations

from typing import Any

import torch

from recbole_tinykg.functional import Interactions, RelationalGraph


def relational_graph(dataset: Any) -> RelationalGraph:
    """Graph of a RecBole `KnowledgeBasedDataset` (training split)."""
    triples = dataset.kg_graph(form="coo", value_field="relation_id")
    head, relation, tail = (
        torch.as_tensor(column).long() for column in (triples.row, triples.data, triples.col)
    )
    pairs = dataset.inter_matrix(form="coo")
    user, item = (torch.as_tensor(column).long() for column in (pairs.row, pairs.col))
    interactions = Interactions(user, item, (dataset.user_num, dataset.item_num))
    return RelationalGraph(
        (head, relation, tail), interactions, dataset.entity_num, dataset.relation_num
    )
