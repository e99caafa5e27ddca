"""The whole model's gradient is unbiased: proved on its mean over many noise seeds, in float64.

For each parameter, n gradients g_1 .. g_n under independent noise and the exact gradient g give the
error of the mean m = mean(g_i) - g and the covariance C of the draws, with eigenvalues c. Without
bias sqrt(n) m is normal with covariance C, so that (Laurent & Massart, Annals of Statistics 2000,
lemma 1), with probability 1 - exp(-T),

    n |m|^2  <=  |c|_1 + 2 |c|_2 sqrt(T) + 2 |c|_max T.

T = 17 is passed by chance with probability 4e-8 per parameter. A bias b adds n |b|^2 to the left
side.
"""

from __future__ import annotations

import pytest
import torch
from graphs import CONFIG, GraphDataset, batches

from recbole_tinykg.model.kgat import TinyKGAT

T = 17.0
DRAWS = 600


def build(**settings):
    torch.manual_seed(3)
    model = TinyKGAT({**CONFIG, **settings}, GraphDataset()).double()
    with torch.no_grad():  # biases away from zero, so that every sign is defined
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model


def gradients(model, loss):
    model.zero_grad()
    loss().sum().backward()
    return {
        name: p.grad.flatten().clone() for name, p in model.named_parameters() if p.grad is not None
    }


def excess(model, loss, draws=DRAWS):
    """n |m|^2 over its bound, per parameter: above 1 is a bias, 0 an exact gradient."""
    with model.compression(32):
        exact = gradients(model, loss)
    samples = {name: [] for name in exact}
    for seed in range(draws):
        model.streams.sites[:, 0] = seed
        for name, grad in gradients(model, loss).items():
            samples[name].append(grad)
    return {name: _excess(torch.stack(grads), exact[name]) for name, grads in samples.items()}


def _excess(draws, exact):
    error = draws.mean(0) - exact
    eigenvalues = torch.linalg.svdvals(draws - draws.mean(0)).square() / (len(draws) - 1)
    bound = eigenvalues.sum() + 2 * eigenvalues.norm() * T**0.5 + 2 * eigenvalues.max() * T
    rounding = len(draws) * (1e-12 * exact.norm()) ** 2
    return float(len(draws) * error.square().sum() / (bound + rounding))


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
