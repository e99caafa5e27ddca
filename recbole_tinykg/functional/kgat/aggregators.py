r"""The arithmetic of a row block of a KGAT layer (Wang et al., KDD 2019, equations 6-8).

With e the ego rows, s the messages, :math:`\sigma` LeakyReLU, and message dropout on top,

* `bi`:        :math:`\sigma(W_1 (e + s) + b_1) + \sigma(W_2 (e \odot s) + b_2)`
* `gcn`:       :math:`\sigma(W (e + s) + b)`
* `graphsage`: :math:`\sigma(W [e; s] + b)`

Backward needs e, s and the signs inside :math:`\sigma`; e and s arrive with independent
quantization noise. Every product below is linear in each of them, so its expectation is exact:
:math:`W_2`'s gradient meets both noises once, :math:`E[\hat e \odot \hat s] = e \odot s` only
because they are independent. The signs are exact bits.

A row without neighbours has s = 0, so only its ego terms are computed. `index` (k,) says which rows
of the block have a message; None means all. Results are written straight into their rows of a
larger tensor, and weight gradients accumulate in place, block by block.
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

LayerWeights = tuple[Tensor, ...]
"""Weight and bias of each of a layer's linear layers."""

Masks = tuple[Tensor, ...]
"""Signs inside the activations, one bit per element."""


class Dropout(NamedTuple):
    """Message dropout of a block: drawn from the stream, in forward and again in backward."""

    stream: Tensor  # (2,) int64
    probability: float
    first_row: int  # of the block

    def activate_(self, z: Tensor, addend: Tensor | None = None) -> Tensor:
        """Replace z (n, D) by the dropout of LeakyReLU(z) + addend; return z's sign mask."""
        return ops.leaky_relu_dropout_(
            z,
            self.stream,
            addend,
            negative_slope=NEGATIVE_SLOPE,
            probability=self.probability,
            first_row=self.first_row,
        )

    def backward(self, g: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of z and of the addend."""
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
        """The same without dropout: LeakyReLU and its mask only."""
        return self._replace(probability=0.0)


class Inputs(NamedTuple):
    """What forward reads of a row block."""

    e: Tensor  # (n, D)
    s: Tensor  # (k, D)
    message_index: Tensor | None  # (k,)


class SavedBlock(NamedTuple):
    """What backward reads of a row block."""

    e: Tensor  # (n, D), e + s if `s` is None
    s: Quantized | None  # (k, D)
    message_index: Tensor | None  # (k,)
    masks: Masks
    weights: LayerWeights
    gradients: LayerWeights  # of the weights, accumulated in place
    dropout: Dropout


class Aggregator(Protocol):
    """The arithmetic of one aggregator, as in the list at the head of the file."""

    num_weights: int
    num_masks: int
    saves_sum: bool
    """Backward needs only e + s, never e and s apart."""

    @staticmethod
    def forward(out: Tensor, x: Inputs, weights: LayerWeights, dropout: Dropout) -> Masks:
        """Write the output (n, D'); return the sign masks."""

    @staticmethod
    def backward(
        grad_e: Tensor,  # (n, D), written
        grad_s: Tensor,  # (k, D), written
        g: Tensor,  # (n, D')
        saved: SavedBlock,
    ) -> None:
        """Write the gradients of e and s; add those of the weights to `saved.gradients`.

        `grad_s` may lie in the memory of `g`: it is written last, when g has been read.
        """


class BiInteraction:
    """Sum and element-wise product, each with a linear layer."""

    num_weights = 4
    num_masks = 2
    saves_sum = False

    @staticmethod
    def forward(out: Tensor, x: Inputs, weights: LayerWeights, dropout: Dropout) -> Masks:
        """Write the output; return the sign masks of each activation's input."""
        e, s, index = x
        w1, b1, w2, b2 = weights
        torch.addmm(b1, add_messages(e, s, index), w1.t(), out=out)
        product = torch.addmm(b2, _take(e, index) * s, w2.t())
        product_mask = dropout.off.activate_(product)
        if index is not None:  # e * 0 leaves the bias
            alone = F.leaky_relu(b2, NEGATIVE_SLOPE).repeat(len(e), 1)
            product = alone.index_copy_(0, index, product)
        return dropout.activate_(out, product), product_mask

    @staticmethod
    def backward(grad_e: Tensor, grad_s: Tensor, g: Tensor, saved: SavedBlock) -> None:
        """Write the gradients of e and s; add those of the weights."""
        e, saved_s, index, masks, weights, gradients, dropout = saved
        assert saved_s is not None
        s = saved_s.dequantize()
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
    saves_sum = True

    @staticmethod
    def forward(out: Tensor, x: Inputs, weights: LayerWeights, dropout: Dropout) -> Masks:
        """Write the output; return the sign masks of each activation's input."""
        weight, bias = weights
        torch.addmm(bias, add_messages(*x), weight.t(), out=out)
        return (dropout.activate_(out),)

    @staticmethod
    def backward(grad_e: Tensor, grad_s: Tensor, g: Tensor, saved: SavedBlock) -> None:
        """Write the gradients of e and s; add those of the weights."""
        total = (
            saved.e if saved.s is None else saved.s.add_to_(saved.e.clone(), saved.message_index)
        )
        g, _ = saved.dropout.backward(g, saved.masks[0])
        _add_linear_(saved.gradients[0], saved.gradients[1], g, total)
        torch.mm(g, saved.weights[0], out=grad_e)
        grad_s.copy_(_take(grad_e, saved.message_index))


class GraphSAGE:
    """A linear layer over the concatenation, split in two so that nothing is concatenated."""

    num_weights = 2
    num_masks = 1
    saves_sum = False

    @staticmethod
    def forward(out: Tensor, x: Inputs, weights: LayerWeights, dropout: Dropout) -> Masks:
        """Write the output; return the sign masks of each activation's input."""
        weight, bias = weights
        w_ego, w_side = weight.split(x.e.shape[1], dim=1)
        torch.addmm(bias, x.e, w_ego.t(), out=out)
        _add_messages_(out, x.s @ w_side.t(), x.message_index)
        return (dropout.activate_(out),)

    @staticmethod
    def backward(grad_e: Tensor, grad_s: Tensor, g: Tensor, saved: SavedBlock) -> None:
        """Write the gradients of e and s; add those of the weights."""
        assert saved.s is not None
        width = saved.e.shape[1]
        w_ego, w_side = saved.weights[0].split(width, dim=1)
        grad_ego, grad_side = saved.gradients[0].split(width, dim=1)
        g, _ = saved.dropout.backward(g, saved.masks[0])
        _add_linear_(grad_ego, saved.gradients[1], g, saved.e)
        g_with = _take(g, saved.message_index)
        _add_product_(grad_side, g_with, saved.s.dequantize())
        torch.mm(g, w_ego, out=grad_e)
        torch.mm(g_with, w_side, out=grad_s)


AGGREGATORS: dict[str, type[Aggregator]] = {
    "bi": BiInteraction,
    "gcn": GCN,
    "graphsage": GraphSAGE,
}


def _take(rows: Tensor, index: Tensor | None) -> Tensor:
    """Return the rows (k, D) that have a message."""
    return rows if index is None else rows.index_select(0, index)


def add_messages(rows: Tensor, messages: Tensor, index: Tensor | None) -> Tensor:
    """Return a new tensor: rows (n, D) plus messages (k, D) where there are any."""
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
