r"""The arithmetic of a row block of a KGAT layer (Wang et al., KDD 2019, equations 6-8).

With e the ego rows, s the messages and :math:`\sigma` LeakyReLU,

* `bi`:        :math:`\sigma(W_1 (e + s) + b_1) + \sigma(W_2 (e \odot s) + b_2)`
* `gcn`:       :math:`\sigma(W (e + s) + b)`
* `graphsage`: :math:`\sigma(W [e; s] + b)`

Backward needs e, s and the signs inside :math:`\sigma`; e and s arrive with independent
quantization noise. Every product below is linear in each of them, so its expectation is exact:
:math:`W_2`'s gradient meets both noises once, :math:`E[\hat e \odot \hat s] = e \odot s` only
because they are independent. The signs are exact bits.

A row without neighbours has s = 0: only its ego terms are computed. `index` (k,) says which rows of
the block have a message, None for all of them. Weight gradients accumulate in place, block by
block.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg import ops

NEGATIVE_SLOPE = 0.01
"""Slope of `nn.LeakyReLU()`, the activation of RecBole's KGAT."""

Weights = tuple[Tensor, ...]
Masks = tuple[Tensor, ...]


class KeptBlock(NamedTuple):
    """What backward has of a row block."""

    e: Tensor  # (n, D), e + s if `s` is None
    s: Tensor | None  # (k, D)
    message_index: Tensor | None  # (k,)
    masks: Masks
    weights: Weights
    gradients: Weights  # of the weights, accumulated in place


class Aggregator(Protocol):
    """One aggregator. `weights` are those of its linear layers: weight, bias, weight, bias ..."""

    num_weights: int
    num_masks: int
    keeps_sum: bool
    """Backward needs e + s only, never e and s apart."""

    @staticmethod
    def forward(
        e: Tensor, s: Tensor, index: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Masks]:
        """Output (n, D') and sign masks, from e (n, D) and s (k, D)."""

    @staticmethod
    def backward(
        g: Tensor,  # (n, D')
        kept: KeptBlock,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of e (n, D) and s (k, D); adds those of the weights to `kept.gradients`."""


class BiInteraction:
    """Sum and element-wise product, each with a linear layer."""

    num_weights = 4
    num_masks = 2
    keeps_sum = False

    @staticmethod
    def forward(
        e: Tensor, s: Tensor, index: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Masks]:
        """As in the table above; sign masks of each activation's input."""
        w1, b1, w2, b2 = weights
        out, sum_mask = _activate(torch.addmm(b1, _add_messages(e, s, index), w1.t()))
        product, product_mask = _activate(torch.addmm(b2, _take(e, index) * s, w2.t()))
        if index is not None:  # e * 0 leaves the bias
            alone = F.leaky_relu(b2, NEGATIVE_SLOPE).repeat(len(e), 1)
            product = alone.index_copy_(0, index, product)
        return out.add_(product), (sum_mask, product_mask)

    @staticmethod
    def backward(g: Tensor, kept: KeptBlock) -> tuple[Tensor, Tensor]:
        """Gradients of e and s; adds those of the weights."""
        e, s, index, masks, weights, gradients = kept
        assert s is not None
        w1, _, w2, b2 = weights
        g_sum = ops.leaky_relu_backward(g, masks[0], negative_slope=NEGATIVE_SLOPE)
        _add_linear_(gradients[0], gradients[1], g_sum, _add_messages(e, s, index))
        grad_e = g_sum @ w1
        g_with = _take(g, index)
        g_product = ops.leaky_relu_backward(g_with, masks[1], negative_slope=NEGATIVE_SLOPE)
        e_with = _take(e, index)
        _add_linear_(gradients[2], gradients[3], g_product, e_with * s)
        if index is not None:
            slope = torch.where(b2 > 0, torch.ones_like(b2), NEGATIVE_SLOPE)
            gradients[3].add_((g.sum(0) - g_with.sum(0)) * slope)
        product_grad = g_product @ w2
        grad_s = _take(grad_e, index) + product_grad * e_with
        return _add_messages(grad_e, product_grad * s, index), grad_s


class GCN:
    """A linear layer over the sum."""

    num_weights = 2
    num_masks = 1
    keeps_sum = True

    @staticmethod
    def forward(
        e: Tensor, s: Tensor, index: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Masks]:
        """As in the table above; sign masks of each activation's input."""
        weight, bias = weights
        out, mask = _activate(torch.addmm(bias, _add_messages(e, s, index), weight.t()))
        return out, (mask,)

    @staticmethod
    def backward(g: Tensor, kept: KeptBlock) -> tuple[Tensor, Tensor]:
        """Gradients of e and s; adds those of the weights."""
        e, s, index, masks, weights, gradients = kept
        g = ops.leaky_relu_backward(g, masks[0], negative_slope=NEGATIVE_SLOPE)
        _add_linear_(gradients[0], gradients[1], g, e if s is None else _add_messages(e, s, index))
        grad_e = g @ weights[0]
        return grad_e, _take(grad_e, index)


class GraphSAGE:
    """A linear layer over the concatenation, taken apart so that nothing is concatenated."""

    num_weights = 2
    num_masks = 1
    keeps_sum = False

    @staticmethod
    def forward(
        e: Tensor, s: Tensor, index: Tensor | None, weights: Weights
    ) -> tuple[Tensor, Masks]:
        """As in the table above; sign masks of each activation's input."""
        weight, bias = weights
        w_ego, w_side = weight.split(e.shape[1], dim=1)
        out, mask = _activate(_add_messages(torch.addmm(bias, e, w_ego.t()), s @ w_side.t(), index))
        return out, (mask,)

    @staticmethod
    def backward(g: Tensor, kept: KeptBlock) -> tuple[Tensor, Tensor]:
        """Gradients of e and s; adds those of the weights."""
        e, s, index, masks, weights, gradients = kept
        assert s is not None
        w_ego, w_side = weights[0].split(e.shape[1], dim=1)
        grad_ego, grad_side = gradients[0].split(e.shape[1], dim=1)
        g = ops.leaky_relu_backward(g, masks[0], negative_slope=NEGATIVE_SLOPE)
        g_with = _take(g, index)
        _add_linear_(grad_ego, gradients[1], g, e)
        grad_side.addmm_(g_with.t(), s)
        return g @ w_ego, g_with @ w_side


AGGREGATORS: dict[str, type[Aggregator]] = {
    "bi": BiInteraction,
    "gcn": GCN,
    "graphsage": GraphSAGE,
}


def _activate(z: Tensor) -> tuple[Tensor, Tensor]:
    """LeakyReLU of z (n, D), in place, and the mask of its signs."""
    mask = ops.sign_mask(z)
    return F.leaky_relu_(z, NEGATIVE_SLOPE), mask


def _take(rows: Tensor, index: Tensor | None) -> Tensor:
    """The rows (k, D) that have a message."""
    return rows if index is None else rows.index_select(0, index)


def _add_messages(rows: Tensor, messages: Tensor, index: Tensor | None) -> Tensor:
    """Rows (n, D) plus messages (k, D) where there are any; a new tensor."""
    return rows + messages if index is None else rows.index_add(0, index, messages)


def _add_linear_(grad_weight: Tensor, grad_bias: Tensor, g: Tensor, x: Tensor) -> None:
    """Add the gradients of a linear layer with input x (n, D) and output gradient g (n, D')."""
    grad_weight.addmm_(g.t(), x)
    grad_bias.add_(g.sum(0))
