"""compressed_saves: a tensor in which a derivative is nonlinear is exact."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from helpers.saved_tensors import FLOATS, Cube, D, N, hidden, leaf, saved_bytes
from recbole_tinykg.saved_tensors import compressed_saves


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_masks_of_relu_are_exact(slope):
    x = leaf()
    with torch.no_grad():
        x[:, ::3] = 0.0
        x[:, 1::3] *= 1e-6
    activation = (lambda x: F.leaky_relu(x, slope)) if slope else F.relu
    weight = torch.randn(N, D)
    with compressed_saves(bits=1, resident=[weight]):
        y = activation(hidden(x))
        loss = (y * weight).sum() + (y @ torch.ones(D, 1)).sum()
    (grad,) = torch.autograd.grad(loss, x)
    expected = torch.where(x > 0, weight + 1, slope * (weight + 1))
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=0)


def test_unpacked_signs_and_zeros_are_exact_where_a_sign_is_needed():
    x = leaf()
    with compressed_saves(bits=1):
        y = hidden(x).clone()
        z = torch.relu(y)
        squares = z * z
    node = squares.grad_fn
    assert torch.equal(z.grad_fn._saved_result > 0, z > 0)
    assert node._saved_self.unique().numel() > 2


NONLINEAR = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "layer_norm": lambda x: F.layer_norm(x, (D,)),
    "norm": lambda x: x.norm(p=3, dim=1, keepdim=True),
    "sigmoid": torch.sigmoid,
    "sigmoid_": torch.sigmoid_,
    "tanh": torch.tanh,
    "tanh_": torch.tanh_,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "pow": lambda x: x**0.3,
    "cube": lambda x: x**3,
    "pow_tensor": lambda x: x ** torch.full((D,), 2.0),
    "div": lambda x: torch.ones(N, D) / x,
    "reciprocal": torch.reciprocal,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "elu": F.elu,
    "erf": torch.erf,
    "cos": torch.cos,
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(0.7, 1.5),
    "prod": lambda x: x.cumprod(1),
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
    "amax": lambda x: x.amax(1, keepdim=True),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear_operations_are_exact(name):
    """Also next to operations for which codes of the same storage would do."""
    x = leaf().detach().abs().add(0.5).requires_grad_()
    weight = leaf(N, D, seed=1)
    grads = []
    for bits in (1, 32):
        with compressed_saves(bits=bits):
            y = NONLINEAR[name](hidden(x))
            loss = (y * weight).sum()
        grads.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(*grads)


IN_PLACE = ("tanh_", "sigmoid_", "sqrt_", "rsqrt_", "reciprocal_", "exp_", "relu_")


@pytest.mark.parametrize("is_looked_at", [False, True])
@pytest.mark.parametrize("name", IN_PLACE)
def test_nonlinear_operations_in_place_on_a_view_are_exact(name, is_looked_at):
    """Autograd gives the written view a node of its own, so what saved it cannot be seen there."""
    x = leaf().detach().abs().add(0.5).requires_grad_()
    weight = leaf(N, D // 2, seed=1)
    grads = []
    for bits in (1, 32):
        with compressed_saves(bits=bits):
            y = hidden(x)
            view = y[:, : D // 2]
            getattr(view, name)()
            if is_looked_at:
                with torch.no_grad():
                    view.mul(view)
            loss = (view * weight).sum()
        grads.append(torch.autograd.grad(loss, x)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize("has_node", [True, False])
def test_what_saves_without_an_operation_gets_its_tensors_exactly(has_node):
    """A C++ autograd::Function saves like this: after its own operations, unseen by the mode."""
    x, weight = leaf(), leaf(N, D, seed=1)
    with compressed_saves(bits=1):
        y = hidden(x)
        pack, _ = torch._C._autograd._top_saved_tensors_default_hooks(False)
        kept = pack(y)
        with torch.set_grad_enabled(has_node):
            y * weight
    assert torch.equal(kept.unpack(), y)


def test_an_exact_need_replaces_codes():
    x = leaf()

    def forward():
        y = hidden(x)
        return (y * y).sum() + y.exp().log().sum() + y.cos().sum()

    assert saved_bytes(forward, inputs=x) == 2 * FLOATS, "y and exp(y), each once, and no codes"


def test_a_custom_function_gets_its_tensors_exactly():
    x = leaf()
    with compressed_saves(bits=1):
        y = hidden(x)
        z = Cube.apply(y)
        loss = z.sum() + (y * torch.ones(D).requires_grad_()).sum()
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], 3 * x**2 + 1)


@pytest.mark.parametrize(
    "activation", [F.relu, torch.relu_, F.leaky_relu, lambda x: F.leaky_relu(x, 0.2, inplace=True)]
)
def test_derivative_at_nan_is_autograd_s(activation):
    x, grads = leaf(), []
    with torch.no_grad():
        x[3, 5] = torch.nan
    for bits in (32, 1):
        with compressed_saves(bits=bits):
            loss = activation(hidden(x)).sum()
        grads += torch.autograd.grad(loss, x)
    assert torch.equal(*grads)


def test_nan_survives():
    x = leaf()
    with torch.no_grad():
        x[3, 5] = torch.nan
    with compressed_saves():
        loss = (hidden(x) * leaf(N, D, seed=1)).square().sum()
    assert torch.autograd.grad(loss, x)[0][3, 5].isnan()
