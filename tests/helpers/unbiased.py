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

import torch

T = 17.0
DRAWS = 600


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
