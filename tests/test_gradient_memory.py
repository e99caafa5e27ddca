"""The memory of a gradient: used again by the next one, never taken from anybody."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.functional.gradient_memory import SMALLEST, give_back, zero_gradient
from recbole_tinykg.optimizers import fused

SHAPE = (SMALLEST // 256, 64)


def with_gradient(shape=SHAPE):
    parameter = torch.nn.Parameter(torch.ones(shape))
    parameter.grad = zero_gradient(parameter).add_(1)
    return parameter


def test_next_gradient_has_the_same_memory_and_is_zero():
    parameter = with_gradient()
    address = parameter.grad.data_ptr()
    give_back(parameter)
    assert parameter.grad is None
    gradient = zero_gradient(parameter)
    assert gradient.data_ptr() == address and not gradient.any()
    assert zero_gradient(parameter).data_ptr() != address


@pytest.mark.parametrize(
    "use",
    [lambda g: g, torch.Tensor.detach, torch.Tensor.numpy, lambda g: g[3], lambda g: [g.data]],
    ids=["name", "detached", "numpy", "row", "data"],
)
def test_memory_that_somebody_else_sees_stays_theirs(use):
    parameter = with_gradient()
    address, seen = parameter.grad.data_ptr(), use(parameter.grad)
    give_back(parameter)
    assert zero_gradient(parameter).data_ptr() != address
    assert (torch.as_tensor(seen[0] if isinstance(seen, list) else seen) == 1).all()


def test_gradient_of_another_kind_gets_its_own_memory():
    parameter = with_gradient()
    give_back(parameter)
    parameter.data = parameter.data.double()
    assert zero_gradient(parameter).dtype == torch.float64


def test_small_gradients_are_simply_dropped():
    parameter = with_gradient((3, 4))
    give_back(parameter)
    assert parameter.grad is None and not parameter.__dict__


def test_fused_optimizer_gives_back_and_still_zeroes_in_place_on_request():
    parameter = with_gradient()
    optimizer, address = fused(torch.optim.Adam([parameter])), parameter.grad.data_ptr()
    optimizer.zero_grad(set_to_none=False)
    assert parameter.grad.data_ptr() == address and not parameter.grad.any()
    optimizer.zero_grad()
    assert parameter.grad is None and zero_gradient(parameter).data_ptr() == address
