r"""The arithmetic of a row block of a KGAT layer (Wang et al., KDD 2019, equations 6-8).

With e the ego rows, s the messages, :math:`\sigma` LeakyReLU, and message dropout on top,

* `bi`:        :math:`\sigma(W_1 (e + s) + b_1) + \sigma(W_2 (e \odot s) + b_2)`
* `gcn`:       :math:`\sigma(W (e + s) + b)`
* `graphsage`: :math:`\sigma(W [e; s] + b)`

Backward needs e, s and the signs inside :math:`\sigma`; e and s arrive with independent
quantization noise. Every product below is linear in each of them, so its expectation is exact:
:math:`W_2`'s gradient meets both noises once, :math:`E[\hat e \odot \hat s] = e \odot s` only
because they are independent. The signs are exact bits.

A row without neighbours has s = 0: only its ego terms are computed. `index` (k,) says which rows of
the block have a message, None for all of them. Results go straight into their rows of a larger
tensor, and weight gradients accumulate in place, block by block.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.quantization import Quantized

NEGATIVE_SLOPE = 0.01
"""Slope of `nn.LeakyReLU()`, the activation of RecBole's KGAT."""

Weights = tuple[Tensor, ...]
Masks = tuple[Tensor, ...]


class Dropout(NamedTuple):
    """Message dropout of a block: drawn from the stream, in forward and again in backward."""

    stream: Tensor  # (2,) int64
    probability: float
    first_row: int  # of the block

    def activate_(self, z: Tensor, addend: Tensor | None = None) -> Tensor:
        """Replace z (n, D) by the dropout of LeakyReLU(z) + addend; give the mask of its signs."""
        return ops.leaky_relu_dropout_(
            z,
            self.stream,
            addend,
            negative_slope=NEGATIVE_SLOPE,
            probability=self.probability,
            first_row=self.first_row,
        )

    def backward(self, g: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of z and of the addend."""
        if self.probability == 0:
            return ops.leaky_relu_backward(g, mask, negative_slope=NEGATIVE_SLOPE), g
        return ops.leaky_relu_dropout_backward(
            g,
            mask,
            self.stream,
            negative_slope=NEGATIVE_SLOPE,
            probability=self.probability,
            first_row=self.first_row,
        )

    @property
    def off(self) -> Dropout:
        """No dropout: LeakyReLU and its mask only."""
        return self._replace(probability=0.0)


class KeptBlock(NamedTuple):
    """What backward has of a row block."""

    e: Tensor  # (n, D), e + s if `s` is None
    s: Quantized | None  # (k, D)
    message_index: Tensor | None  # (k,)
    masks: Masks
    weights: Weights
    gradients: Weights  # of the weights, accumulated in place
    dropout: Dropout


class Aggregator(Protocol):
    """One aggregator. `weights` are those of its linear layers: weight, bias, weight, bias ..."""

    num_weights: int
    num_masks: int
    keeps_sum: bool
    """Backward needs e + s only, never e and s apart."""

    @staticmethod
    def forward(
        out: Tensor, e: Tensor, s: Tensor, index: Tensor | None, weights: Weights, dropout: Dropout
    ) -> Masks:
        """Write the output (n, D') from e (n, D) and s (k, D); give the sign masks."""

    @staticmethod
    def backward(
        grad_e: Tensor,  # (n, D), written
        grad_s: Tensor,  # (k, D), written
        g: Tensor,  # (n, D')
        kept: KeptBlock,
    ) -> None:
        """Write the gradients of e and s; add those of the weights to `kept.gradients`.

        `grad_s` may lie in the memory of `g`: it is written last, when g has been read.
        """


class BiInteraction:
    """Sum and element-wise product, each with a linear layer."""

    num_weights = 4
    num_masks = 2
    keeps_sum = False

    @staticmethod
    def forward(
        out: Tensor, e: Tensor, s: Tensor, index: Tensor | None, weights: Weights, dropout: Dropout
    ) -> Masks:
        """As in the table above; sign masks of each activation's input."""
        w1, b1, w2, b2 = weights
        torch.addmm(b1, add_messages(e, s, index), w1.t(), out=out)
        product = torch.addmm(b2, _take(e, index) * s, w2.t())
        product_mask = dropout.off.activate_(product)
        if index is not None:  # e * 0 leaves the bias
            alone = F.leaky_relu(b2, NEGATIVE_SLOPE).repeat(len(e), 1)
            product = alone.index_copy_(0, index, product)
        return dropout.activate_(out, product), product_mask

    @staticmethod
    def backward(grad_e: Tensor, grad_s: Tensor, g: Tensor, kept: KeptBlock) -> None:
        """Gradients of e and s; adds those of the weights."""
        e, kept_s, index, masks, weights, gradients, dropout = kept
        assert kept_s is not None
        s = kept_s.dequantize()
        w1, _, w2, b2 = weights
        g_sum, g = dropout.backward(g, masks[0])
        _add_linear_(gradients[0], gradients[1], g_sum, add_messages(e, s, index))
        torch.mm(g_sum, w1, out=grad_e)
        g_with = _take(g, index)
        g_product, _ = dropout.off.backward(g_with, masks[1])
        e_with = _take(e, index)
        _add_linear_(gradients[2], gradients[3], g_product, e_with * s)
        if index is not None:
            slope = torch.where(b2 > 0, torch.ones_like(b2), NEGATIVE_SLOPE)
            gradients[3].add_((g.sum(0) - g_with.sum(0)) * slope)
        product_grad = g_product @ w2
        torch.addcmul(_take(grad_e, index), product_grad, e_with, out=grad_s)
        _add_messages_(grad_e, product_grad.mul_(s), index)


class GCN:
    """A linear layer over the sum."""

    num_weights = 2
    num_masks = 1
    keeps_sum = True

    @staticmethod
    def forward(
        out: Tensor, e: Tensor, s: Tensor, index: Tensor | None, weights: Weights, dropout: Dropout
    ) -> Masks:
        """As in the table above; sign masks of each activation's input."""
        weight, bias = weights
        torch.addmm(bias, add_messages(e, s, index), weight.t(), out=out)
        return (dropout.activate_(out),)

    @staticmethod
    def backward(grad_e: Tensor, grad_s: Tensor, g: Tensor, kept: KeptBlock) -> None:
        """Gradients of e and s; adds those of the weights."""
        total = kept.e if kept.s is None else kept.s.add_to_(kept.e.clone(), kept.message_index)
        g, _ = kept.dropout.backward(g, kept.masks[0])
        _add_linear_(kept.gradients[0], kept.gradients[1], g, total)
        torch.mm(g, kept.weights[0], out=grad_e)
        grad_s.copy_(_take(grad_e, kept.message_index))


class GraphSAGE:
    """A linear layer over the concatenation, taken apart so that nothing is concatenated."""

    num_weights = 2
    num_masks = 1
    keeps_sum = False

    @staticmethod
    def forward(
        out: Tensor, e: Tensor, s: Tensor, index: Tensor | None, weights: Weights, dropout: Dropout
    ) -> Masks:
        """As in the table above; sign masks of each activation's input."""
        weight, bias = weights
        w_ego, w_side = weight.split(e.shape[1], dim=1)
        torch.addmm(bias, e, w_ego.t(), out=out)
        _add_messages_(out, s @ w_side.t(), index)
        return (dropout.activate_(out),)

    @staticmethod
    def backward(grad_e: Tensor, grad_s: Tensor, g: Tensor, kept: KeptBlock) -> None:
        """Gradients of e and s; adds those of the weights."""
        assert kept.s is not None
        width = kept.e.shape[1]
        w_ego, w_side = kept.weights[0].split(width, dim=1)
        grad_ego, grad_side = kept.gradients[0].split(width, dim=1)
        g, _ = kept.dropout.backward(g, kept.masks[0])
        _add_linear_(grad_ego, kept.gradients[1], g, kept.e)
        g_with = _take(g, kept.message_index)
        _add_product_(grad_side, g_with, kept.s.dequantize())
        torch.mm(g, w_ego, out=grad_e)
        torch.mm(g_with, w_side, out=grad_s)


AGGREGATORS: dict[str, type[Aggregator]] = {
    "bi": BiInteraction,
    "gcn": GCN,
    "graphsage": GraphSAGE,
}


def _take(rows: Tensor, index: Tensor | None) -> Tensor:
    """The rows (k, D) that have a message."""
    return rows if index is None else rows.index_select(0, index)


def add_messages(rows: Tensor, messages: Tensor, index: Tensor | None) -> Tensor:
    """Rows (n, D) plus messages (k, D) where there are any; a new tensor."""
    return rows + messages if index is None else rows.index_add(0, index, messages)


def _add_messages_(rows: Tensor, messages: Tensor, index: Tensor | None) -> None:
    """Add messages (k, D) to rows (n, D) in place."""
    _ = rows.add_(messages) if index is None else rows.index_add_(0, index, messages)


def _add_linear_(grad_weight: Tensor, grad_bias: Tensor, g: Tensor, x: Tensor) -> None:
    """Add the gradients of a linear layer with input x (n, D) and output gradient g (n, D')."""
    _add_product_(grad_weight, g, x)
    grad_bias.add_(g.sum(0))


def _add_product_(out: Tensor, g: Tensor, x: Tensor) -> None:
    """Add g^T x to out, which keeps its precision where autocast lowered that of g and x."""
    _ = out.addmm_(g.t(), x) if out.dtype == g.dtype else out.add_(g.t() @ x)
