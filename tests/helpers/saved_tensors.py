"""A small net, activations and their saved bytes, for the tests of compressed_saves."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.saved_tensors import compressed_saves

N, D = 128, 64
FLOATS = N * D * 4
CODES = N * (D * 2 // 8 + 4 + 2)  # at 2 bits: codes, float32 minimum, bfloat16 step


def leaf(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape or (N, D), generator=generator).requires_grad_()


def hidden(x):
    """Return an activation: no parameter, on a storage of its own."""
    return x + 0


class Cube(torch.autograd.Function):
    """A function of Python's, which saves without an operation."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class Net(nn.Module):
    """Gathered rows, a hidden layer, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, D)
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, rows):
        return self.second(torch.relu(self.first(self.table(rows)))).square().mean()


def rows(seed=0):
    return torch.randint(0, 50, (N,), generator=torch.Generator().manual_seed(seed))


def gradients(loss, module, **kwargs):
    return torch.autograd.grad(loss, list(module.parameters()), **kwargs)


def saved_bytes(forward, model=None, inputs=(), **kwargs):
    with saved_tensors(model, inputs) as saved, compressed_saves(model, **kwargs):
        result = forward()
    del result
    return saved.num_bytes


def step(net, index, streams, recording):
    """Take a step with a recording; return bytes kept, whether a mode ran, and the gradients."""
    net.zero_grad()
    with (
        saved_tensors(net, index) as saved,
        compressed_saves(
            net, streams=streams, resident=[index], recording=recording, min_saved_bytes=512
        ),
    ):
        has_mode = _get_current_dispatch_mode() is not None
        loss = net(index)
    loss.backward()
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return saved.num_bytes, has_mode, grads
