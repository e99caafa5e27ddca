r"""BPR over rows that are sums, the last summand scaled to unit length (KGIN, equations 11-13).

A node is represented by :math:`z = s + x / \|x\|`: s is what earlier hops add up to, x the last
hop's output. A pair is scored by :math:`z_u^\top z_i`, and RecBole adds
:math:`\lambda (\|U\| + \|P\| + \|N\|) / B` over the batch's representations.

The loss is a scalar, so forward knows :math:`g = \partial L / \partial z` in full precision; s gets
it as it is, and x gets :math:`(g - y\,(y^\top g)) / \|x\|` with :math:`y = x / \|x\|`.

Saves: codes of g (1 B per element of a unique row, see `bpr`), codes of y (bits/8 B), and two
factors per row, :math:`1 / \|x\|` and :math:`y^\top g / \|x\|`, so that y is met once.

Noise: both gradients are linear in the codes, whose noises are independent.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.bpr import EPS, GRADIENT_BITS, rank_pairs, score_gradient, shrinkage
from recbole_tinykg.functional.kgin.unit_rows import along, normalize
from recbole_tinykg.quantization import Quantized, Sites, StepSites

Pairs = tuple[Tensor, Tensor, Tensor]
"""(B,) each: rows of user, positive and negative item."""


def add_summed_bpr_sites(sites: Sites) -> None:
    """Name g and y."""
    sites.add("loss.gradient", fewest_bits=GRADIENT_BITS)
    sites.add("loss.rows")


def summed_rows(sums: Tensor, last: Tensor) -> Tensor:  # (R, D) each
    """Return the representations z."""
    return sums + F.normalize(last, dim=1, eps=EPS)


@without_autocast
def summed_bpr_loss(
    sites: StepSites,  # those of `add_summed_bpr_sites`
    sums: Tensor,  # (R, D)
    last: Tensor,  # (R, D)
    pairs: Pairs,
    reg_weight: float,
) -> Tensor:
    """Return the BPR loss plus `reg_weight` times RecBole's `EmbLoss` of the representations."""
    return _SummedBPRLoss.apply(sites.group("loss"), reg_weight, *pairs, sums, last)


class _SummedBPRLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sites: StepSites, reg_weight: float, *tensors: Tensor) -> Tensor:
        pairs, (sums, last) = tensors[:3], tensors[3:]
        y, length = normalize(last)
        z = sums + y
        batches = [z.index_select(0, index) for index in pairs]
        loss, slope, norms = rank_pairs(batches, reg_weight)
        if not any(ctx.needs_input_grad):
            return loss
        g = score_gradient(slope, pairs, batches, len(z))
        g.addcmul_(shrinkage(pairs, norms, reg_weight, len(z))[:, None], z)
        codes = sites["gradient"].quantize(g), sites["rows"].quantize(y)
        ctx.layouts = [code.layout for code in codes]
        factors = torch.cat([1 / length, along(y, g, length) / length], dim=1)
        ctx.save_for_backward(factors, *(t for code in codes for t in code.tensors()))
        return loss

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        factors, *saved = ctx.saved_tensors
        tensors = iter(saved)
        g, y = (Quantized.unflatten(tensors, layout).dequantize() for layout in ctx.layouts)
        inverse_length, pull = (factors * grad_loss).split(1, dim=1)
        grad_last = (g * inverse_length).addcmul_(y, pull, value=-1)
        return *(None,) * 5, g * grad_loss, grad_last
