"""A small random graph and a model configuration, for tests that need no RecBole data set."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction
from scipy.sparse import coo_matrix

CONFIG = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "NEG_PREFIX": "neg_",
    "ENTITY_ID_FIELD": "entity_id",
    "RELATION_ID_FIELD": "relation_id",
    "HEAD_ENTITY_ID_FIELD": "head_id",
    "TAIL_ENTITY_ID_FIELD": "tail_id",
    "device": torch.device("cpu"),
    "seed": 2020,
    "embedding_size": 8,
    "kg_embedding_size": 6,
    "layers": [7, 5],
    "aggregator_type": "bi",
    "mess_dropout": 0.0,
    "reg_weight": 1e-5,
    "compress_bits": 2,
    "compress_rounding": "stochastic",
    "compress_seed": None,
}


class GraphDataset:
    """The part of RecBole's `KnowledgeBasedDataset` that KGAT reads, over a random graph.

    Some entities have no outgoing edge and some pairs are joined by several relations, as in real
    graphs.
    """

    def __init__(self, num_users=9, num_items=12, num_entities=30, num_relations=4, seed=0):
        rng = np.random.default_rng(seed)
        self.sizes = {
            "user_id": num_users,
            "item_id": num_items,
            "entity_id": num_entities,
            "relation_id": num_relations + 2,  # padding first, user-item relation last
        }
        users = np.repeat(np.arange(1, num_users), 4)
        items = rng.integers(1, num_items, len(users))
        head = rng.integers(1, num_entities // 2, 60)
        tail = rng.integers(1, num_entities, 60)
        relation = rng.integers(1, num_relations + 1, 60)
        head, tail = np.append(head, head[:6]), np.append(tail, tail[:6])
        relation = np.append(relation, relation[:6] % num_relations + 1)
        rows = np.concatenate([users, items + num_users, head + num_users])
        cols = np.concatenate([items + num_users, users, tail + num_users])
        kinds = np.concatenate([np.full(2 * len(users), num_relations + 1), relation])
        self.edges = (kinds, (rows, cols))

    def num(self, field):
        return self.sizes[field]

    def ckg_graph(self, form, value_field):
        """Return the edges over users, then entities, as RecBole does."""
        assert (form, value_field) == ("coo", "relation_id")
        nodes = self.sizes["user_id"] + self.sizes["entity_id"]
        return coo_matrix(self.edges, shape=(nodes, nodes))


def batches(dataset, size=24, seed=1):
    """Draw a batch of (user, item, negative item) and one of triples with a corrupted tail."""
    generator = torch.Generator().manual_seed(seed)

    def draw(field):
        return torch.randint(1, dataset.num(field), (size,), generator=generator)

    ranking = {
        "user_id": draw("user_id"),
        "item_id": draw("item_id"),
        "neg_item_id": draw("item_id"),
    }
    relation = torch.randint(1, dataset.num("relation_id") - 1, (size,), generator=generator)
    triples = {
        "head_id": draw("entity_id"),
        "relation_id": relation,
        "tail_id": draw("entity_id"),
        "neg_tail_id": draw("entity_id"),
    }
    return Interaction(ranking), Interaction(triples)
