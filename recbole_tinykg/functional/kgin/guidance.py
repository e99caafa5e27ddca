r"""The user side of a KGIN hop (Wang et al., WWW 2021, equations 1, 7 and 8).

An intent f is a mix of relations, :math:`d_f = \sum_r \mathrm{softmax}(W_f)_r\, w_r`. A user with
embedding u, whose items have the mean m, gets

.. math:: \beta = \mathrm{softmax}(u P^\top), \qquad m \odot (1 + \beta D)

where the rows of P are the intents' own embeddings. Backward has :math:`\beta` exactly, because its
derivative is quadratic in it, and u and m with noise: u meets only :math:`\partial P` and m only
:math:`\partial(\beta D)`, so every product is linear in each of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class IntentGradients(NamedTuple):
    """Gradients that all hops add to."""

    latent: Tensor  # (F, D)
    directions: Tensor  # (F, D)


def directions(attention: Tensor, relations: Tensor) -> Tensor:  # (F, R), (R, D) -> (F, D)
    """Return the intents as mixes of relations."""
    return torch.softmax(attention, dim=1) @ relations


def directions_backward(
    gradient: Tensor,  # (F, D)
    attention: Tensor,  # (F, R)
    relations: Tensor,  # (R, D)
) -> tuple[Tensor, Tensor]:
    """Return the gradients of attention and relations."""
    share = torch.softmax(attention, dim=1)
    return softmax_backward(gradient @ relations.t(), share), share.t() @ gradient


def softmax_backward(gradient: Tensor, share: Tensor) -> Tensor:
    """Return the gradient of the scores whose softmax over the last dimension is `share`."""
    return share * (gradient - (gradient * share).sum(-1, keepdim=True))


def guided_means(
    ego: Tensor,  # (U, D)
    means: Tensor,  # (U, D)
    latent: Tensor,  # (F, D)
    directions: Tensor,  # (F, D)
) -> tuple[Tensor, Tensor]:
    """Return the messages (U, D) of the users, and the intents' shares (U, F)."""
    share = torch.softmax(ego @ latent.t(), dim=1)
    return torch.addcmul(means, share @ directions, means), share


def guided_means_backward(
    gradient: Tensor,  # (U, D)
    saved: tuple[Tensor, Tensor, Tensor],  # ego (U, D), means (U, D), shares (U, F)
    latent: Tensor,  # (F, D)
    directions: Tensor,  # (F, D)
    grads: IntentGradients,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ego and means; add those of the intents."""
    ego, means, share = saved
    grad_weight = gradient * means
    grads.directions.addmm_(share.t(), grad_weight)
    grad_score = softmax_backward(grad_weight @ directions.t(), share)
    grads.latent.addmm_(grad_score.t(), ego)
    return grad_score @ latent, torch.addcmul(gradient, share @ directions, gradient)
