r"""Label smoothness: a user's label of an item, predicted from those of the item's neighbours.

KGNN-LS (Wang et al., KDD 2019, equations 7 to 9) propagates the labels of a user's known items
along the same weights p that mix the neighbours' vectors, and asks that the label of the item
itself, which is held out, comes back:

.. math:: l_e = \frac1K \sum_k p_{e,k}\, l_{n(e,k)}

where an entity with a known label is reset to it. (The 1/K is RecBole's mean.) The labels are
constants, the loss is a scalar and has no vector in it, so everything is exact.

Saves: labels as one byte per entity of the receptive field; p, which is saved anyway; the loss'
derivative by each prediction.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast

UNKNOWN = 1
"""Twice the label of an entity without a known label; known ones are 0 and 2."""


@without_autocast
def label_smoothness_loss(
    attention: tuple[Tensor, ...],  # H tensors (N * K^h, K)
    known: tuple[Tensor, ...],  # H + 1 tensors (N * K^h,) uint8: twice the label
    labels: Tensor,  # (N,) 0 or 1: the items' true labels
) -> Tensor:
    """Return the mean cross entropy of the predicted labels, which RecBole takes for logits."""
    return _LabelSmoothness.apply(len(attention), *attention, *known, labels)


class _LabelSmoothness(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, num_hops: int, *tensors: Tensor) -> Tensor:
        attention, known, labels = tensors[:num_hops], tensors[num_hops:-1], tensors[-1]
        predicted = _propagate(attention, known)[0]
        labels = labels.to(predicted.dtype)
        if any(ctx.needs_input_grad):
            slope = (torch.sigmoid(predicted) - labels) / len(labels)
            ctx.num_hops = num_hops
            ctx.save_for_backward(*attention, *known, slope)
        return F.binary_cross_entropy_with_logits(predicted, labels)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        *tensors, slope = ctx.saved_tensors
        attention, known = tuple(tensors[: ctx.num_hops]), tuple(tensors[ctx.num_hops :])
        labels = _propagate(attention, known)
        grads, down = [], slope * grad_loss
        for p, fixed, below in zip(attention, known[:-1], labels[1:], strict=True):
            down = torch.where(fixed == UNKNOWN, down, 0).div_(p.shape[1])[:, None]
            grads.append(down * below.view_as(p))
            down = (down * p).view(-1)
        return None, *grads, *(None,) * len(known), None


def _propagate(attention: tuple[Tensor, ...], known: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the labels (N * K^h,) of each hop, computed from the last one inwards."""
    labels = [known[-1].to(attention[0].dtype) / 2]
    for p, fixed in zip(reversed(attention), reversed(known[:-1]), strict=True):
        mixed = (p * labels[0].view_as(p)).sum(1) / p.shape[1]
        labels.insert(0, torch.where(fixed == UNKNOWN, mixed, fixed.to(p.dtype) / 2))
    return labels
