"""TinyKGNNLS against RecBole's KGNN-LS."""

from __future__ import annotations

import pytest
import torch
from test_kgcn import CrossEntropy, share_neighbors

from helpers.static_conformance import StaticConformance
from recbole_tinykg.functional.kgcn import UNKNOWN


def set_labels(twin, users, items, labels):
    """Replace the known labels: users, items, labels of 0 and 1, (L,) each; no pair twice."""
    keys, order = (users * twin.n_entities + items).sort()
    twin.label_keys = keys
    twin.label_values = (2 * labels[order]).to(twin.label_values)


class TestTinyKGNNLS(StaticConformance):
    twin = "TinyKGNNLS"
    variants = [
        {"aggregator": "sum", "ls_weight": 0.5},
        {"aggregator": "neighbor", "n_iter": 2, "ls_weight": 100.0},
        {"aggregator": "concat", "n_iter": 3, "ls_weight": 100.0},
    ]
    noisy = variants[1:2]
    large = {"train_batch_size": 256}
    checkerboard = {"aggregator": "neighbor"}
    fewer_bytes = 35
    refused = [("ls_weight", -1), ("aggregator", "mean"), ("n_iter", True)]

    def share(self, stock, twin):
        share_neighbors(stock, twin)
        keys = torch.tensor(sorted(stock.interaction_table))
        users, items = keys // stock.offset, keys % stock.offset
        labels = torch.tensor([stock.interaction_table[key] for key in keys.tolist()])
        set_labels(twin, users, items, labels)

    def convert(self, stock, dtype):
        stock.bce_loss = CrossEntropy()

    def test_label_loss_reaches_the_gradient(self):
        """With a weight of 100 the term shows in float32; RecBole's 0.5 leaves it near nothing."""
        grads = []
        batch = self.data("tiny")[1]["calculate_loss"]
        for weight in (0.0, 100.0):
            twin = self.build(self.twin, "tiny", ls_weight=weight, n_iter=2)
            twin.calculate_loss(batch).backward()
            grads.append(twin.relation_embedding.weight.grad)
        assert (grads[0] - grads[1]).norm() > 0.1 * grads[0].norm()

    def test_as_many_negative_labels_as_positive_ones(self):
        twin = self.build(self.twin, "tiny")
        split, _ = self.data("tiny")
        known = {
            (int(user), int(item))
            for user, item in zip(
                split.inter_feat["user_id"], split.inter_feat["item_id"], strict=True
            )
        }
        pairs = {
            (key // twin.n_entities, key % twin.n_entities): value
            for key, value in zip(twin.label_keys.tolist(), twin.label_values.tolist(), strict=True)
        }
        assert {pair for pair, value in pairs.items() if value == 2} == known
        assert sum(value == 0 for value in pairs.values()) == len(known)
        assert all(0 < user < twin.n_users and 0 < item < twin.n_items for user, item in pairs)

    def test_where_nearly_all_pairs_are_known_the_rest_is_negative(self):
        twin = self.build(self.twin, "tiny")
        pairs = torch.cartesian_prod(torch.arange(1, twin.n_users), torch.arange(1, twin.n_items))
        users, items = pairs.t()
        keys = users * twin.n_entities + items
        negative = twin._sample_negatives(keys[5:], torch.Generator())
        assert negative.tolist() == keys[:5].tolist()

    def test_items_are_held_out_wherever_they_appear(self):
        twin = self.build(self.twin, "tiny", n_iter=2)
        split, _ = self.data("tiny")
        users, items = split.inter_feat["user_id"], split.inter_feat["item_id"]
        known = twin.known_labels(users, items)
        seen = 0
        for entities, labels in zip(twin.field.entities(items), known, strict=True):
            item = items.repeat_interleave(len(entities) // len(items))
            assert (labels[entities == item] == UNKNOWN).all()
            seen += int((labels != UNKNOWN).sum())
        assert (known[0] == UNKNOWN).all() and seen > 0

    def test_a_step_does_not_grow_the_table(self):
        twin = self.build(self.twin, "tiny")
        size = len(twin.label_keys)
        twin.calculate_loss(self.data("tiny")[1]["calculate_loss"])
        assert len(twin.label_keys) == size
        stock = self.build(self.stock_name, "tiny")
        size = len(stock.interaction_table)
        stock.calculate_loss(self.data("tiny")[1]["calculate_loss"])
        assert len(stock.interaction_table) > size, "stock grows: the known bug is gone"

    @pytest.mark.parametrize("user", [3000, 2**31])
    def test_keys_do_not_overflow(self, user):
        twin = self.build(self.twin, "tiny")
        twin.n_entities = 10**6
        users, items = torch.tensor([user, 1]), torch.tensor([5, 7])
        set_labels(twin, users, items, torch.tensor([1.0, 0.0]))
        assert twin.label_keys.tolist() == [10**6 + 7, user * 10**6 + 5]
        assert twin.label_values.tolist() == [0, 2]
        twin.adj_entity.fill_(5)
        asked = torch.tensor([user, user + 1])
        for dtype in (torch.int32, torch.int64)[user > 2**30 :]:
            _, known = twin.known_labels(asked.to(dtype), torch.tensor([7, 7]))
            assert known.view(2, -1).tolist() == [[2] * 4, [UNKNOWN] * 4]
