"""normalize_backward against autograd through PyTorch's own normalisation, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recbole_tinykg import ops
from recbole_tinykg.ops import reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
EPS = 1e-12


def rows(num_columns, dtype):
    """Gradient (in a larger matrix), x with a zero row, and shrink factors."""
    generator = torch.Generator().manual_seed(num_columns)
    wide, x = torch.randn(2, 35, 2 * num_columns, generator=generator, dtype=torch.float64)
    x = x[:, :num_columns].contiguous()
    x[3] = 0
    shrink = torch.rand(35, generator=generator, dtype=torch.float64)
    return wide.to(dtype)[:, num_columns:], x.to(dtype), shrink.to(dtype)


def by_autograd(grad, x, shrink):
    """Float64: autograd through F.normalize, and `shrink * y` where a row is shorter than EPS."""
    x = x.double().requires_grad_()
    y = F.normalize(x, dim=1, eps=EPS)
    short = (x.norm(dim=1) < EPS).double()
    upstream = grad.double() + (short * shrink.double())[:, None] * y.detach()
    return torch.autograd.grad(y, x, upstream)[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_columns", [1, 7, 16, 64, 100, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_autograd(dtype, num_columns, device):
    """Errors of the two sums, of the factors and of the result, each a few units in the last place.

    A sum over D columns in the tree of the kernel meets about D / 16 + 4 roundings; the rest ten.
    They are relative to |grad| / length, to which the difference of two such terms is rounded.
    """
    grad, x, shrink = rows(num_columns, dtype)
    expected = by_autograd(grad, x, shrink)
    on_device = (tensor.to(device) for tensor in (grad, x, shrink))
    got = ops.normalize_backward(*on_device, eps=EPS).cpu()
    assert got.dtype == dtype
    length = x.double().norm(dim=1).clamp_min(EPS)
    size = (grad.double().norm(dim=1) + shrink.double()) / length
    work = torch.finfo(reference.compute_dtype(dtype)).eps * (num_columns / 16 + 14)
    tolerance = size * (work + torch.finfo(dtype).eps)
    finite = tolerance < torch.finfo(dtype).max  # a zero row divides by EPS: Inf in 16 bits
    error = (got.double() - expected).norm(dim=1)
    assert (error <= tolerance)[finite].all()


def test_nan_stays_in_its_row():
    grad, x, shrink = rows(20, torch.float32)
    x[5, 7] = torch.nan
    got = ops.normalize_backward(grad, x, shrink, eps=EPS)
    assert got[5].isnan().all()
    assert not got[torch.arange(35) != 5].isnan().any()


def test_row_blocks_give_the_rows_of_the_whole():
    grad, x, shrink = rows(20, torch.float32)
    whole = ops.normalize_backward(grad, x, shrink, eps=EPS)
    parts = [
        ops.normalize_backward(grad[i], x[i], shrink[i], eps=EPS)
        for i in (slice(17), slice(17, 35))
    ]
    assert torch.equal(torch.cat(parts), whole)


REFUSED = {
    "x must be a matrix (N, D); got shape (3,)": (torch.ones(3), torch.ones(3), torch.ones(3)),
    "grad must have shape (3, 4); got (3, 5)": (torch.ones(3, 5), torch.ones(3, 4), torch.ones(3)),
    "shrink must have shape (3,); got (4,)": (torch.ones(3, 4), torch.ones(3, 4), torch.ones(4)),
    "shrink must be torch.float32; got torch.float64": (
        torch.ones(3, 4),
        torch.ones(3, 4),
        torch.ones(3).double(),
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(message):
    with pytest.raises((TypeError, ValueError)) as error:
        ops.normalize_backward(*REFUSED[message], eps=EPS)
    assert str(error.value) == message
