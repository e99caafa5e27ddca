"""What a knowledge-aware model asks of RecBole's data set, from arrays and without files.

RecBole reads, renumbers and splits files, which takes minutes and gigabytes at 16 times the size of
Amazon-Book. To measure a model's graph and step there, the few things that constructors of
RecBole's knowledge-aware models and their twins ask for suffice:

    dataset = ArrayDataset(interactions_and_triples("amazon-book"), kg_reverse_r=True)
    model = build_model("TinyKGAT", dataset, compress_bits=2)
    model.calculate_loss(dataset.pairs(2048, seed=1)).backward()

All interactions are training interactions. Numbers are RecBole's: 0 is padding, reverse relations
follow the relations, and interactions have the last relation. `tests/benchmarks/test_synthetic.py`
compares with RecBole's data set of the same files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from scipy.sparse import coo_matrix

from benchmarks.synthetic_data.synthetic import KnowledgeData
from recbole_tinykg.config import Config
from recbole_tinykg.model import get_model


class ArrayDataset:
    """A knowledge-based data set in memory.

    Args:
        data: Interactions and triples, numbered from 0.
        kg_reverse_r: As in RecBole: a reverse triple, under a relation of its own, for each triple.
    """

    uid_field, iid_field, entity_field = "user_id", "item_id", "entity_id"
    head_entity_field, relation_field, tail_entity_field = "head_id", "relation_id", "tail_id"

    def __init__(self, data: KnowledgeData, *, kg_reverse_r: bool = False) -> None:
        """Give everything the number that RecBole would."""
        size = data.size
        self.dataset_name = "arrays"
        self.user_num, self.item_num = size.users + 1, size.items + 1
        self.entity_num = size.all_entities + 1
        self.relation_num = size.relations * (2 if kg_reverse_r else 1) + 2
        user, item = (torch.from_numpy(column).long() + 1 for column in (data.user, data.item))
        self.inter_feat = Interaction({self.uid_field: user, self.iid_field: item})
        head, relation, tail = (column + 1 for column in (data.head, data.relation, data.tail))
        if kg_reverse_r:
            head, tail = np.concatenate([head, tail]), np.concatenate([tail, head])
            relation = np.concatenate([relation, relation + size.relations])
        self.head_entities, self.relations, self.tail_entities = head, relation, tail  # int32

    def num(self, field: str) -> int:
        """How many numbers a field has, padding included."""
        if field in (self.entity_field, self.head_entity_field, self.tail_entity_field):
            return self.entity_num
        own = (self.user_num, self.item_num, self.relation_num)
        return dict(zip((self.uid_field, self.iid_field, self.relation_field), own, strict=True))[
            field
        ]

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Users' items: ones, (user_num, item_num)."""
        assert value_field is None, "interactions have no values here"
        ends = (self.inter_feat[self.uid_field].numpy(), self.inter_feat[self.iid_field].numpy())
        shape = (self.user_num, self.item_num)
        return coo_matrix((np.ones(len(ends[0])), ends), shape=shape).asformat(form)

    def kg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Triples: relations, or ones without `value_field`, (entity_num, entity_num)."""
        relations = self.relations if value_field else np.ones(len(self.relations))
        shape = (self.entity_num, self.entity_num)
        return coo_matrix((relations, (self.head_entities, self.tail_entities)), shape).asformat(
            form
        )

    def ckg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Interactions both ways, then triples, over users, then entities."""
        user, item = (self.inter_feat[f].numpy() for f in (self.uid_field, self.iid_field))
        item, shift = item + self.user_num, np.int32(self.user_num)
        head = np.concatenate([user, item, self.head_entities + shift], dtype=np.int32)
        tail = np.concatenate([item, user, self.tail_entities + shift], dtype=np.int32)
        interactions = np.full(2 * len(user), self.relation_num - 1, dtype=self.relations.dtype)
        relations = np.concatenate([interactions, self.relations])
        shape = (self.user_num + self.entity_num,) * 2
        values = relations if value_field else np.ones(len(relations))
        return coo_matrix((values, (head, tail)), shape).asformat(form)

    def pairs(self, rows: int, seed: int) -> Interaction:
        """Return a batch of interactions with items drawn at random, as for `calculate_loss`."""
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.inter_feat), (rows,), generator=draw)
        columns = {f: self.inter_feat[f][chosen] for f in (self.uid_field, self.iid_field)}
        columns["neg_item_id"] = torch.randint(1, self.item_num, (rows,), generator=draw)
        return Interaction(columns)

    def labelled(self, rows: int, seed: int) -> Interaction:
        """Return a batch of interactions, as many pairs with random items, and labels."""
        pairs = self.pairs(rows // 2, seed)
        items = torch.cat([pairs[self.iid_field], pairs["neg_item_id"]])
        label = torch.cat([torch.ones(rows // 2), torch.zeros(rows // 2)])
        users = pairs[self.uid_field].repeat(2)
        return Interaction({self.uid_field: users, self.iid_field: items, "label": label})

    def triples(self, rows: int, seed: int) -> Interaction:
        """Return a batch of triples with tails drawn at random, as for `calculate_kg_loss`."""
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.relations), (rows,), generator=draw).numpy()
        names = (self.head_entity_field, self.relation_field, self.tail_entity_field)
        columns = (self.head_entities, self.relations, self.tail_entities)
        batch = {
            name: torch.from_numpy(column[chosen]).long()
            for name, column in zip(names, columns, strict=True)
        }
        batch["neg_tail_id"] = torch.randint(1, self.entity_num, (rows,), generator=draw)
        return Interaction(batch)


def build_model(name: str, dataset: ArrayDataset, **settings: Any) -> Any:
    """Build a stock model or a twin on the data set, with RecBole's initial weights, on the CPU."""
    given = {"gpu_id": "", "state": "ERROR", **settings}
    config = Config(name, dataset.dataset_name, config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    return get_model(name)(config, dataset)
