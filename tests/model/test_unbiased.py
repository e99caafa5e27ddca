"""TinyKGAT's gradient is unbiased, loss by loss and cause by cause (see `unbiased.py`)."""

from __future__ import annotations

import pytest
import torch

from helpers.graphs import CONFIG, GraphDataset, batches
from helpers.unbiased import excess
from recbole_tinykg.model.kgat import TinyKGAT


def build(**settings):
    torch.manual_seed(3)
    model = TinyKGAT({**CONFIG, **settings}, GraphDataset()).double()
    with torch.no_grad():  # biases away from zero, so that every sign is defined
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model


@pytest.mark.parametrize("aggregator", ["bi", "gcn", "graphsage"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ranking_gradient_is_unbiased(aggregator, bits):
    model = build(aggregator_type=aggregator, compress_bits=bits, layers=[7, 6, 5], reg_weight=0.0)
    ranking, _ = batches(GraphDataset())
    ratios = excess(model, lambda: model.calculate_loss(ranking))
    assert max(ratios.values()) < 1, ratios
    assert sum(ratio > 1e-4 for ratio in ratios.values()) >= 4, "no noise reached the gradients"


@pytest.mark.parametrize("bits", [2, 8])
def test_ranking_gradient_is_unbiased_with_dropout(bits):
    model = build(compress_bits=bits, mess_dropout=0.3)
    ranking, _ = batches(GraphDataset())
    model.streams.advance = model.streams.current  # the same dropout mask in every draw ...
    sites = model.streams.sites

    def loss():
        fixed = sites.clone()
        layers = len(model.aggregator_layers)
        fixed[layers + 2 :: 3, 0] = 7  # ... its site keeps its seed
        model.streams.sites = fixed
        try:
            return model.calculate_loss(ranking)
        finally:
            model.streams.sites = sites

    assert max(excess(model, loss).values()) < 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_regulariser_gradient_is_unbiased(bits):
    """Every item is compared with itself, which switches BPR off."""
    model = build(compress_bits=bits, reg_weight=1.0)
    ranking, _ = batches(GraphDataset())
    ranking.update(type(ranking)({"neg_item_id": ranking["item_id"]}))
    assert max(excess(model, lambda: model.calculate_loss(ranking), draws=100).values()) < 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_knowledge_graph_gradient_is_unbiased(bits):
    model = build(compress_bits=bits, reg_weight=1.0)
    _, triples = batches(GraphDataset())
    assert max(excess(model, lambda: model.calculate_kg_loss(triples), draws=50).values()) < 1


def test_noise_shared_by_the_factors_of_a_product_is_caught():
    model = build(compress_bits=2, layers=[7, 6, 5], reg_weight=0.0)
    ranking, _ = batches(GraphDataset())
    layers = len(model.aggregator_layers)
    sites = model.streams.sites
    sites[layers + 1 :: 3] = sites[layers::3]  # s draws the noise of e
    ratios = excess(model, lambda: model.calculate_loss(ranking), draws=2500)
    assert max(ratios.values()) > 1, ratios
    assert max(ratios, key=ratios.get).endswith("W2.weight")
