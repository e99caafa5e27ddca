"""TinyKGCN against RecBole's KGCN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from conformance import TwinConformance


def share_neighbors(stock, twin):
    tables = {"adj_entity": stock.adj_entity, "adj_relation": stock.adj_relation}
    twin.load_other_parameter(tables)


class CrossEntropy(torch.nn.Module):
    """RecBole's labels are float32, with which PyTorch computes a float64 loss to 8 digits only."""

    def forward(self, score, label):
        """Mean cross entropy in the precision of the scores."""
        return F.binary_cross_entropy_with_logits(score, label.to(score.dtype))


class TestTinyKGCN(TwinConformance):
    twin = "TinyKGCN"
    variants = [
        {"aggregator": aggregator, "n_iter": n_iter}
        for aggregator in ("sum", "neighbor", "concat")
        for n_iter in (1, 2, 3)
    ]
    noisy = [
        {"aggregator": "sum", "n_iter": 1},
        {"aggregator": "neighbor", "n_iter": 2},
        {"aggregator": "concat", "n_iter": 2},
        {"aggregator": "sum", "n_iter": 3},
    ]
    large = {"train_batch_size": 256}
    checkerboard = {"aggregator": "neighbor"}
    fewer_bytes = 25
    refused = [
        ("aggregator", "mean"),
        ("n_iter", 0),
        ("neighbor_sample_size", 2.5),
        ("embedding_size", "64d"),
        ("reg_weight", -1.0),
    ]

    def share(self, stock, twin):
        share_neighbors(stock, twin)

    def convert(self, stock, dtype):
        stock.bce_loss = CrossEntropy()

    def test_items_are_scored_in_blocks_and_users_in_chunks(self, monkeypatch):
        from recbole_tinykg.functional.neighborhood import scores as neighborhood_scores

        twin, pairs = self.build(self.twin, "tiny", n_iter=2).eval(), self.scored_pairs("tiny")
        expected = twin.full_sort_predict(pairs)
        monkeypatch.setattr(neighborhood_scores, "ITEM_BLOCK", 7)
        monkeypatch.setattr(neighborhood_scores, "CHUNK_ELEMENTS", 1)
        torch.testing.assert_close(twin.eval().full_sort_predict(pairs), expected)
