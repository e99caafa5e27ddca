r"""BPR over normalised, concatenated layer outputs (KGAT, equations 9-12).

A node is represented by :math:`z = [x_0, y_1, .., y_L]`, :math:`y_l = x_l / \|x_l\|`, a pair is
scored by :math:`z_u^\top z_i`, and RecBole adds :math:`\lambda (\|U\| + \|P\| + \|N\|) / B` over
the batch's representations. All of it needs only the batch's unique rows.

The loss is a scalar and forward already knows every factor of its derivative, so forward also
computes :math:`\partial L / \partial x_l` in full precision; backward only scales it by the
gradient of the loss.

Saves: codes of :math:`\partial L / \partial x_l` for l >= 1 (1 B per element of a unique row). For
:math:`x_0`, which are rows of parameters, the derivative of each score (4 B per pair), the
positions of the rows and a factor per row: its gradient is recomputed exactly. The alternative,
codes of y and float32 norms, saves more and adds noise to both factors.

These codes are gradients, every parameter below the head sees their noise, and they are few, so
they have at least `GRADIENT_BITS`. On ml-100k, 2 bits here would cause at least 85 % of the noise
in the embeddings' gradient, and save a tenth of the bytes of `layers` [64, 32, 16].

Noise: backward is linear in the codes, which meet no other noise here. The regulariser's gradient
through a normalised block is exactly zero, because :math:`y - y (y^\top y) = 0`; it is computed
only for rows shorter than `EPS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.graph.node_rows import NodeRows, Parts
from recbole_tinykg.quantization import Quantized, Sites, StepSites

EPS = 1e-12
"""Smallest norm that `torch.nn.functional.normalize` divides by."""

GRADIENT_BITS = 8
"""Fewest bits of an element of a saved gradient, unless its bits are chosen for it alone."""

GAMMA = 1e-10
"""RecBole's `BPRLoss`: -log(gamma + sigmoid(positive - negative))."""


def add_bpr_sites(sites: Sites, num_layers: int) -> None:
    """Name the gradient of each layer's output."""
    for layer in range(1, num_layers + 1):
        sites.add(f"layer{layer}.head_gradient", fewest_bits=GRADIENT_BITS)


def normalized_rows(outputs: tuple[Tensor, ...]) -> Tensor:
    """Return representations (R, sum of D_l) from rows (R, D_l) of the input and every layer."""
    layers = (x.to(outputs[0].dtype) for x in outputs[1:])  # they may be in autocast's type
    return torch.cat([outputs[0], *(F.normalize(x, dim=1, eps=EPS) for x in layers)], dim=1)


@without_autocast
def bpr_loss(
    sites: StepSites,  # those of `add_bpr_sites`
    outputs: tuple[Tensor, ...],  # layers + 1 tensors (R, D_l)
    rows: NodeRows,
    parts: Parts,  # (sizes[p], D_0), whose rows `outputs[0]` are
    pairs: tuple[Tensor, Tensor, Tensor],  # (B,) each: rows of user, positive and negative item
    reg_weight: float,
) -> Tensor:
    """Return the BPR loss plus `reg_weight` times RecBole's `EmbLoss` of the representations."""
    frozen = tuple(part.detach() for part in parts)
    outputs = tuple(x.to(outputs[0].dtype) for x in outputs)  # layers may be in autocast's type
    return _BPRLoss.apply(sites, reg_weight, rows, *frozen, *pairs, *outputs)


def rank_pairs(batches: Sequence[Tensor], reg_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, its derivative (B,) by each score, and norms (3,) of the three batches."""
    user, positive, negative = batches  # (B, D) each
    likelihood = torch.sigmoid((user * (positive - negative)).sum(1))
    norms = torch.stack([batch.norm() for batch in batches])
    size = len(likelihood)
    loss = -torch.log(GAMMA + likelihood).mean() + reg_weight * norms.sum() / size
    slope = -likelihood * (1 - likelihood) / (GAMMA + likelihood) / size
    return loss, slope, norms


class _BPRLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sites: StepSites, reg_weight: float, rows: NodeRows, *tensors: Tensor
    ) -> Tensor:
        parts, pairs, outputs = tensors[:2], tensors[2:5], tensors[5:]
        z = normalized_rows(outputs)
        batches = [z.index_select(0, index) for index in pairs]
        loss, slope, norms = rank_pairs(batches, reg_weight)
        if not any(ctx.needs_input_grad):
            return loss
        shrink = shrinkage(pairs, norms, reg_weight, len(z))
        width = outputs[0].shape[1]
        hidden = [batch[:, width:] for batch in batches]
        grad = score_gradient(slope, pairs, hidden, len(z))
        codes = []
        blocks = grad.split([x.shape[1] for x in outputs[1:]], dim=1)
        for layer, (block, x) in enumerate(zip(blocks, outputs[1:], strict=True), 1):
            gradient = ops.normalize_backward(block, x, shrink, eps=EPS)
            codes.append(sites[f"layer{layer}.head_gradient"].quantize(gradient))
        ctx.num_first, ctx.offset = rows.num_first, rows.offset
        ctx.layouts = [code.layout for code in codes]
        small = [index.int() for index in (rows.nodes, *pairs)]
        ctx.save_for_backward(
            *parts, *small, slope, shrink, *(t for code in codes for t in code.tensors())
        )
        return loss

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        first, second, nodes, *saved = ctx.saved_tensors
        pairs, (slope, shrink), tensors = saved[:3], saved[3:5], iter(saved[5:])
        rows = NodeRows(nodes.long(), ctx.num_first, ctx.offset)
        x = rows.gather((first, second))
        batches = [x.index_select(0, index) for index in pairs]
        grad = score_gradient(slope, tuple(pairs), batches, len(x))
        grads = [grad.addcmul_(shrink[:, None], x).mul_(grad_loss)]
        for layout in ctx.layouts:
            grads.append(Quantized.unflatten(tensors, layout).dequantize() * grad_loss)
        return *(None,) * 8, *grads


def shrinkage(pairs: tuple[Tensor, ...], norms: Tensor, reg_weight: float, num_rows: int) -> Tensor:
    """Return each row's factor (R,) in the regulariser's gradient, summed over the batches."""
    factors = torch.where(norms > 0, reg_weight / (len(pairs[0]) * norms), 0)
    total = norms.new_zeros(num_rows)
    for index, factor in zip(pairs, factors, strict=True):
        total.index_add_(0, index, factor.expand(len(index)))
    return total


def score_gradient(
    slope: Tensor,  # (B,) derivative of the loss by the score difference
    pairs: tuple[Tensor, ...],
    batches: list[Tensor],  # (B, D) each: user, positive, negative
    num_rows: int,
) -> Tensor:
    """Return the gradient (R, D) of the rows' representations through the scores."""
    user, positive, negative = batches
    slope = slope[:, None]
    pull = slope * user
    contributions = torch.cat([slope * (positive - negative), pull, -pull])
    index = torch.cat([index.long() for index in pairs])
    grad = user.new_zeros(num_rows, user.shape[1])
    return grad.scatter_add_(0, index[:, None].expand_as(contributions), contributions)
