r"""KGIN's independence loss: how much its intents depend on each other (KGIN, section 3.1.2).

The F rows of the attention over relations should differ. RecBole has three measures:

* `cosine`: the sum over pairs of :math:`\cos^2`;
* `distance`: the sum over pairs of the distance correlation (Szekely et al., 2007);
* `mi`: :math:`-\sum_f \log(e^{1/\tau} / \sum_{f'} e^{\cos(f, f') / \tau})`, F x F in all.

Saves: the rows, which are a parameter, by reference: 0 bytes. Backward computes the measure again
with autograd, as F x R is tiny. No noise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast

MEASURES = ("cosine", "distance", "mi")

_EPS = 1e-8
"""RecBole adds it under each root of the distance correlation."""


@without_autocast
def independence_loss(
    rows: Tensor,  # (F, R)
    measure: str,  # one of MEASURES
    temperature: float,  # tau of `mi`
) -> Tensor:
    """Return how much the rows depend on each other; a scalar."""
    return _IndependenceLoss.apply(measure, temperature, rows)


class _IndependenceLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, measure: str, temperature: float, rows: Tensor) -> Tensor:
        ctx.measure, ctx.temperature = measure, temperature
        ctx.save_for_backward(rows)
        return _measure(rows, measure, temperature)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_value: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        own = saved_tensors_hooks(_identity, _identity)  # the caller's may compress or count
        with torch.enable_grad(), own:
            rows = rows.detach().requires_grad_()
            value = _measure(rows, ctx.measure, ctx.temperature)
            (gradient,) = torch.autograd.grad(value, rows)
        return None, None, gradient * grad_value


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _measure(rows: Tensor, measure: str, temperature: float) -> Tensor:
    if measure == "distance":
        return _distance_correlation(rows).triu(1).sum()
    unit = F.normalize(rows, dim=1)
    cosine = unit @ unit.t()
    if measure == "cosine":
        return cosine.triu(1).square().sum()
    weight = torch.exp(cosine / temperature)
    return -torch.log(weight.diag() / weight.sum(1)).sum()


def _distance_correlation(rows: Tensor) -> Tensor:  # (F, R) -> (F, F)
    """Return the distance correlation of every two rows."""
    square = rows.square()
    difference = square[:, :, None] - 2 * rows[:, :, None] * rows[:, None, :] + square[:, None, :]
    distance = (torch.maximum(difference, torch.zeros_like(difference)) + _EPS).sqrt()
    by_column, by_row = (distance.mean(dim, keepdim=True) for dim in (1, 2))
    centred = (distance - by_column - by_row + distance.mean((1, 2), keepdim=True)).flatten(1)
    products = centred @ centred.t() / rows.shape[1] ** 2
    covariance = (torch.maximum(products, torch.zeros_like(products)) + _EPS).sqrt()
    variance = covariance.diag()
    return covariance / (variance[:, None] * variance[None, :] + _EPS).sqrt()
