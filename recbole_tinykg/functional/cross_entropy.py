r"""Binary cross entropy of user-item scores, with the users' vectors from a table.

:math:`s = u^\top y`, and RecBole's regulariser :math:`\lambda(\|U\| + \sum_g \|Y_g\|) / B` over the
batch's user vectors and each of its g groups of item vectors (positive and negative ones apart, or
all as one).

The loss is a scalar, so forward knows its derivative by every score, and the users' gradient too.

Saves: the derivative of each score (4 B per row); the users' gradient
:math:`\sum s' y`, one row per distinct user, at `GRADIENT_BITS` or more; codes of y at `bits`, for
the regulariser's gradient; users and their places. User vectors are rows of a parameter.

Noise: y's gradient :math:`s' u + \lambda y / (B \|Y_g\|)` is linear in the codes of y, which are
used nowhere else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.bpr import GRADIENT_BITS
from recbole_tinykg.functional.kgcn.relation_attention import BatchUsers
from recbole_tinykg.functional.rows import add_rows_
from recbole_tinykg.quantization import Quantized, Sites, StepSites


def add_pointwise_sites(sites: Sites) -> None:
    """Name the users' gradient and the items' vectors."""
    sites.add("loss.user_gradient", fewest_bits=GRADIENT_BITS)
    sites.add("loss.items")


@without_autocast
def pointwise_loss(
    sites: StepSites,  # those of `add_pointwise_sites`
    user_weight: Tensor,  # (num_users, d)
    users: BatchUsers,
    vectors: Tensor,  # (N, d) of the items
    labels: Tensor,  # (N,) 0 or 1
    reg_weight: float,
    num_groups: int,
) -> Tensor:
    """Return the mean cross entropy plus the regulariser; a scalar."""
    vectors = vectors.to(user_weight.dtype)  # it may be in autocast's type
    return _PointwiseLoss.apply(
        sites.group("loss"), reg_weight, num_groups, *users, labels, user_weight, vectors
    )


class _PointwiseLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        sites: StepSites,
        reg_weight: float,
        num_groups: int,
        unique: Tensor,
        place: Tensor,
        static_shapes: bool,
        labels: Tensor,
        user_weight: Tensor,
        y: Tensor,
    ) -> Tensor:
        num_rows, size = len(y), len(y) // num_groups
        user = BatchUsers(unique, place, static_shapes).rows_of(user_weight)
        rows = place.repeat(num_rows // len(place))
        u = user.index_select(0, rows)
        user_norm = u[:size].norm()
        score = u.mul_(y).sum(1)
        item_norms = y.view(num_groups, -1).norm(dim=1)
        labels = labels.to(score.dtype)
        loss = F.binary_cross_entropy_with_logits(score, labels)
        loss = loss + reg_weight * (user_norm + item_norms.sum()) / size
        if not any(ctx.needs_input_grad):
            return loss
        slope = (torch.sigmoid(score) - labels) / num_rows
        grad_user = add_rows_(torch.zeros_like(user), rows, torch.mul(y, slope[:, None], out=u))
        ones = torch.ones(1, dtype=torch.int64, device=rows.device).expand(size)
        count = ones.new_zeros(len(user)).scatter_add_(0, rows[:size].long(), ones).to(y.dtype)
        grad_user.addcmul_(user, (count * _shrink(reg_weight / size, user_norm))[:, None])
        codes = sites["user_gradient"].quantize(grad_user), sites["items"].quantize(y)
        ctx.layouts, ctx.static_shapes = [code.layout for code in codes], static_shapes
        shrink = _shrink(reg_weight / size, item_norms)
        flat = (tensor for code in codes for tensor in code.tensors())
        ctx.save_for_backward(user_weight, unique, place, slope, shrink, *flat)
        return loss

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_loss: Tensor) -> Any:
        user_weight, unique, place, slope, shrink, *saved = ctx.saved_tensors
        tensors = iter(saved)
        user_code, item_code = (Quantized.unflatten(tensors, layout) for layout in ctx.layouts)
        users = BatchUsers(unique, place, ctx.static_shapes).write_rows_(
            torch.zeros_like(user_weight), user_code.dequantize() * grad_loss
        )
        rows = unique.index_select(0, place).repeat(len(slope) // len(place))
        grad = user_weight.index_select(0, rows).mul_((slope * grad_loss)[:, None])
        grad_groups = grad.view(len(shrink), -1)
        y = item_code.dequantize().view_as(grad_groups)
        grad_groups.addcmul_(y, (shrink * grad_loss)[:, None])
        return *(None,) * 7, users, grad


def _shrink(weight: float, norm: Tensor) -> Tensor:
    """Return a vector's factor in the gradient of `weight` times its norm; 0 where the norm is."""
    return torch.where(norm > 0, weight / norm, 0)
