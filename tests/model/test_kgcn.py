"""TinyKGCN against RecBole's KGCN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from helpers.static_conformance import StaticConformance, assert_places_left_draw_no_noise
from helpers.twin_case import total
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.functional.kgcn import convolution
from recbole_tinykg.functional.kgcn import scores as neighborhood_scores
from recbole_tinykg.memory.meter import peak_bytes


def share_neighbors(stock, twin):
    tables = {"adj_entity": stock.adj_entity, "adj_relation": stock.adj_relation}
    twin.load_other_parameter(tables)


class CrossEntropy(torch.nn.Module):
    """RecBole's labels are float32, with which PyTorch computes a float64 loss to 8 digits only."""

    def forward(self, score, label):
        """Mean cross entropy in the precision of the scores."""
        return F.binary_cross_entropy_with_logits(score, label.to(score.dtype))


class TestTinyKGCN(StaticConformance):
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
        twin, pairs = self.build(self.twin, "tiny", n_iter=2).eval(), self.scored_pairs("tiny")
        expected = twin.full_sort_predict(pairs)
        monkeypatch.setattr(neighborhood_scores, "ITEM_BLOCK", 7)
        monkeypatch.setattr(neighborhood_scores, "CHUNK_ELEMENTS", 1)
        torch.testing.assert_close(twin.eval().full_sort_predict(pairs), expected)

    @pytest.mark.parametrize("aggregator", ["sum", "neighbor", "concat"])
    def test_backward_in_blocks_is_backward(self, aggregator, monkeypatch):
        settings = {"aggregator": aggregator, "n_iter": 2, "compress_bits": 2}
        grads = []
        for size in (10**6, 20):
            monkeypatch.setattr(convolution, "EDGE_BLOCK", size)
            twin = self.build(self.twin, "tiny", **settings).double()
            twin.calculate_loss(self.data("tiny")[1]["calculate_loss"]).backward()
            grads.append([p.grad for p in twin.parameters()])
        for whole, in_blocks in zip(*grads, strict=True):
            torch.testing.assert_close(in_blocks, whole, rtol=1e-12, atol=1e-15)

    def test_neighbours_vectors_exist_in_blocks_only(self):
        """Stock has 4,096 x 16 of them at once."""
        batch = self.data("ml-100k")[1]["calculate_loss"]
        batch = batch.repeat(8)
        peaks = []
        for name in (self.stock_name, self.twin):
            model = self.build(name, "ml-100k", neighbor_sample_size=16)
            with peak_bytes() as peak:
                model.calculate_loss(batch).backward()
            peaks.append(peak.num_bytes)
        assert peaks[1] < peaks[0] / 3, peaks

    def test_what_scoring_keeps_does_not_grow_with_the_items(self, monkeypatch):
        """Beyond the numbers of an item's neighbours: an embedding row here has 256 bytes."""
        monkeypatch.setattr(neighborhood_scores, "ITEM_BLOCK", 64)
        twin = self.build(self.twin, "ml-100k", n_iter=2).eval()
        scores = twin._item_scores()
        layers = [layer for layers in scores._blocks for layer in layers]
        kept = sum(t.nbytes for layer in layers for t in layer[:3] if t is not None)
        assert kept < 256 * twin.n_items
        assert scores._side.nbytes == twin.entity_embedding.weight.nbytes

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_model_of_half_precision_trains(self, dtype):
        for loss, batch in self.data("tiny")[1].items():
            twin = self.build(self.twin, "tiny").to(dtype)
            total(getattr(twin, loss)(batch)).backward()
            assert all(p.grad.isfinite().all() for p in twin.parameters() if p.grad is not None)

    def test_scores_are_not_rounded_by_autocast(self):
        twin, pairs = self.build(self.twin, "tiny").eval(), self.scored_pairs("tiny")
        expected = twin.full_sort_predict(pairs)
        twin.eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(twin.full_sort_predict(pairs), expected)

    def test_a_live_graph_keeps_its_neighbours(self):
        batch, grads = self.data("tiny")[1]["calculate_loss"], []
        for changes in (False, True):
            twin = self.build(self.twin, "tiny", compress_bits=32)
            loss = twin.calculate_loss(batch)
            if changes:
                twin.load_other_parameter({"adj_entity": torch.zeros_like(twin.adj_entity)})
            loss.backward()
            grads.append(twin.entity_embedding.weight.grad)
        assert torch.equal(*grads)

    def test_neighbours_that_do_not_exist_are_refused(self):
        twin = self.build(self.twin, "tiny")
        for bad in (-1, twin.n_entities):
            table = torch.full_like(twin.adj_entity, bad)
            with pytest.raises(CheckpointError, match="adj_entity must hold numbers from 0 to"):
                twin.load_other_parameter({"adj_entity": table})


def test_places_that_are_left_get_no_noise():
    assert_places_left_draw_no_noise(TestTinyKGCN())
