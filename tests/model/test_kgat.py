"""TinyKGAT against RecBole's KGAT."""

from __future__ import annotations

import pytest
import torch
from recbole.utils import KGDataLoaderState

from helpers.static_conformance import StaticConformance
from helpers.twin_case import distance
from recbole_tinykg.graph import row_blocks


@pytest.mark.filterwarnings("ignore:torch.sparse.SparseTensor:UserWarning")  # stock KGAT's call
class TestTinyKGAT(StaticConformance):
    twin = "TinyKGAT"
    variants = [
        {"aggregator_type": aggregator, "layers": layers, "mess_dropout": 0.0}
        for aggregator in ("bi", "gcn", "graphsage")
        for layers in ([64], [64, 32, 16])
    ]
    noisy = [{"layers": [7, 6], "mess_dropout": 0.0}]  # test_unbiased.py takes causes one by one
    small = {"embedding_size": 8, "kg_embedding_size": 6, "layers": [8, 4]}
    losses = {
        "calculate_loss": KGDataLoaderState.RS,
        "calculate_kg_loss": KGDataLoaderState.KG,
    }
    checkerboard = {"kg_embedding_size": 16, "layers": [16]}
    fewer_bytes = 250
    refused = [
        ("layers", 64),
        ("layers", []),
        ("layers", [64, 0]),
        ("aggregator_type", "sum"),
        ("mess_dropout", 1.0),
        ("embedding_size", "64d"),
    ]

    def convert(self, stock, dtype):
        stock.A_in = stock.A_in.to(dtype)

    def compare_scores(self, stock, twin, dataset, bound):
        """And attention, as it is and after a refresh."""
        assert attention_distance(stock, twin) < bound
        super().compare_scores(stock, twin, dataset, bound)
        with torch.no_grad():
            stock.update_attentive_A()
            twin.update_attentive_A()
        stock.restore_user_e = None  # only a training step empties it
        assert attention_distance(stock, twin) < bound
        super().compare_scores(stock, twin, dataset, bound)

    @pytest.mark.parametrize("bits", [32, 2])
    def test_blocks_of_rows_change_nothing(self, variant, bits, monkeypatch):
        """A graph of two blocks and one of many, some without messages, some overwritten."""
        gradients = []
        for rows in (4096, 7):
            monkeypatch.setattr(row_blocks, "ROW_BLOCK", rows)
            settings = {**variant, "mess_dropout": 0.3, "compress_bits": bits}
            twin, batch = self.build(self.twin, "tiny", **settings), self.data("tiny")[1]
            twin.double().calculate_loss(batch["calculate_loss"]).backward()
            gradients.append([p.grad for p in twin.parameters() if p.grad is not None])
        for whole, blocks in zip(*gradients, strict=True):
            assert distance(blocks, whole) < 1e-13

    def test_attention_survives_saving_and_loading(self):
        twin, other = (self.build(self.twin, "tiny") for _ in range(2))
        with torch.no_grad():
            twin.relation_embedding.weight.normal_()
        twin.update_attentive_A()
        assert not torch.equal(other.attention[2], twin.attention[2])
        other.load_other_parameter(twin.other_parameter())
        for mine, theirs in zip(other.attention, twin.attention, strict=True):
            assert torch.equal(mine, theirs)


class TestTinyKGATDirected(TestTinyKGAT):
    """Without the reversed relations that RecBole adds for KGAT."""

    variants = [{"layers": [64, 32, 16], "mess_dropout": 0.0}]
    small = {**TestTinyKGAT.small, "kg_reverse_r": False}
    large = {"kg_reverse_r": False}
    fewer_bytes = 200


def attention_distance(stock, twin):
    matrix = stock.A_in.coalesce()
    crow, col, values = twin.attention
    row = torch.repeat_interleave(torch.arange(len(crow) - 1), crow.diff())
    assert torch.equal(matrix.indices(), torch.stack([row, col]))
    return distance(values, matrix.values())
