"""Masks, LeakyReLU's derivative and dropout mean what PyTorch and NumPy mean by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.operators import DTYPES, difficult_rows
from recbole_tinykg import ops
from recbole_tinykg.quantization import stream


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sign_mask_is_numpys_packing(dtype):
    x = difficult_rows(dtype, 21)
    expected = np.packbits((x > 0).numpy(), axis=1, bitorder="little")
    assert ops.sign_mask(x).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.2, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_leaky_relu_backward_is_torchs(dtype, slope):
    x = torch.randn(30, 21, dtype=dtype, requires_grad=True)
    grad = torch.randn(30, 21, dtype=dtype)
    expected = torch.autograd.grad(F.leaky_relu(x, slope), x, grad)[0]
    mask = ops.sign_mask(x.detach())
    got = ops.leaky_relu_backward(grad, mask, negative_slope=slope)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_dropout_of_the_gradient_has_the_mask_of_forward():
    x, grad, noise = torch.ones(50, 30), torch.ones(50, 30), stream(4, 4)
    kept = ops.dropout(x, noise, probability=0.4)
    assert torch.equal(ops.dropout(grad, noise, probability=0.4), kept)
    assert not torch.equal(ops.dropout(x, stream(4, 5), probability=0.4), kept)
    assert torch.equal(ops.dropout(x[20:], noise, probability=0.4, first_row=20), kept[20:])
    assert torch.equal(ops.dropout(x, noise, probability=0.0), x)


@pytest.mark.parametrize("probability", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fused_activation_is_its_parts(dtype, probability):
    x, addend, grad = torch.randn(3, 30, 21, dtype=dtype)
    noise, options = stream(4, 4), {"negative_slope": 0.2, "probability": probability}
    out = x.clone()
    mask = ops.leaky_relu_dropout_(out, noise, addend, **options, first_row=7)
    apart = F.leaky_relu(x, 0.2) + addend
    apart = ops.dropout(apart, noise, probability=probability, first_row=7)
    assert torch.equal(out, apart)
    assert torch.equal(mask, ops.sign_mask(x))
    dropped = ops.dropout(grad, noise, probability=probability, first_row=7)
    grad_x = ops.leaky_relu_backward(dropped, mask, negative_slope=0.2)
    both = ops.leaky_relu_dropout_backward(grad, mask, noise, **options, first_row=7)
    assert torch.equal(both[0], grad_x)
    assert torch.equal(both[1], dropped)
