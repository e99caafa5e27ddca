"""The columns of a RecBole data set against the sparse matrices that RecBole makes of it."""

from __future__ import annotations

import pytest
import torch

from helpers.datasets import TINY_RUN, write_tiny_dataset
from recbole_tinykg.graph.from_recbole import (
    collaborative_edges,
    knowledge_triples,
    user_item_pairs,
)
from recbole_tinykg.quick_start import prepare


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tiny_dataset(folder)
    experiment = prepare("KGCN", "tiny", config_dict={**TINY_RUN, "data_path": str(folder)})
    return experiment.train_data._dataset


def test_triples_are_those_of_the_knowledge_graph(dataset):
    graph = dataset.kg_graph(form="coo", value_field="relation_id")
    triples = knowledge_triples(dataset)
    assert all(column.dtype == torch.int64 for column in triples)
    assert triples.head.tolist() == graph.row.tolist()
    assert triples.relation.tolist() == graph.data.tolist()
    assert triples.tail.tolist() == graph.col.tolist()


def test_collaborative_edges_are_pairs_in_both_directions_and_triples(dataset):
    triples, (user, item) = knowledge_triples(dataset), user_item_pairs(dataset)
    edges = collaborative_edges(dataset)
    head = [user, item + dataset.user_num, triples.head + dataset.user_num]
    tail = [item + dataset.user_num, user, triples.tail + dataset.user_num]
    relation = [torch.full((2 * len(user),), dataset.relation_num - 1), triples.relation]
    for column, parts in zip(edges, (head, relation, tail), strict=True):
        assert torch.equal(column.long(), torch.cat(parts))
