"""compressed_saves: what is packed as codes, by reference, or as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.saved_tensors import (
    CODES,
    FLOATS,
    D,
    N,
    Net,
    gradients,
    hidden,
    leaf,
    rows,
    saved_bytes,
)
from recbole_tinykg.saved_tensors import compressed_saves


def test_forward_is_exact_and_gradients_are_near():
    net = Net()
    exact = gradients(net(rows()), net)
    for bits, bound in ((8, 0.01), (2, 0.5)):
        with compressed_saves(net, bits):
            loss = net(rows())
        assert torch.equal(loss, net(rows()))
        for got, expected in zip(gradients(loss, net), exact, strict=True):
            assert 0 < (got - expected).norm() / expected.norm() < bound or got.equal(expected)


def test_at_32_bits_the_block_does_nothing():
    net = Net()
    with compressed_saves(net, 32):
        loss = net(rows())
    assert all(map(torch.equal, gradients(loss, net), gradients(net(rows()), net)))


def test_parameters_and_gathered_rows_cost_nothing():
    net = Net()
    indices = rows()
    hidden_bytes = CODES + N * D // 8  # relu's output: its codes and its sign bits
    squared = CODES
    assert saved_bytes(lambda: net(indices), net, indices) == hidden_bytes + squared


@pytest.mark.parametrize("hold", [lambda x: x, lambda x: [x], lambda x: {"features": x}])
def test_tensors_that_a_module_holds_cost_nothing(hold):
    net, weight = nn.Module(), leaf()
    features = torch.randn(10 * N, D)
    net.held = hold(features)
    assert saved_bytes(lambda: features[N : 2 * N] * weight, net) == 0


def test_gathered_rows_are_exact():
    net = Net()
    indices = rows()
    with compressed_saves(net):
        loss = net.first(net.table(indices)).sum()
    assert all(
        torch.equal(got, expected)
        for got, expected in zip(
            gradients(loss, net, allow_unused=True)[:3],
            gradients(net.first(net.table(indices)).sum(), net, allow_unused=True)[:3],
            strict=True,
        )
    )


def test_integers_and_booleans_are_exact_and_by_reference():
    x, index = leaf(), torch.arange(N).flip(0)
    with compressed_saves():
        y = hidden(x)[index].masked_fill(torch.arange(D) > 3, 0.0).sum()
    (grad,) = torch.autograd.grad(y, x)
    assert torch.equal(grad, (torch.arange(D) <= 3).float().expand(N, D))


def test_expanded_tensors_never_become_dense():
    scale, x = leaf(N * D // 64, 1), leaf(N * D // 64, 4096)
    batch = x.detach()
    kept = saved_bytes(lambda: (scale.exp().expand(-1, 4096) * batch).sum(), resident=[batch])
    assert kept - batch.nbytes <= 4096, "exp's small output, kept as it is; 2 MB when expanded"


def test_a_storage_is_packed_once_however_many_save_it():
    x, w = leaf(), leaf(D, D, seed=1)

    def forward():
        y = hidden(x)
        return (y @ w).sum() + (y.t() @ y).sum() + (y[:, : D // 2] * y[:, D // 2 :]).sum()

    assert saved_bytes(forward, inputs=[x, w], min_saved_bytes=1024) - CODES <= D * D * 4


CHANGES = {
    "in_place": lambda y: y.mul_(2.0),
    "data": lambda y: y.data.mul_(2.0),
    "out": lambda y: torch.mul(y.data, 2.0, out=y.data),
    "foreach": lambda y: torch._foreach_mul_([y.data], 2.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_version_is_packed_again(change):
    x, first, second = leaf(), leaf(seed=1), leaf(seed=2)

    def forward():
        y = hidden(x)
        loss = (y * first).sum()
        CHANGES[change](y)
        return loss + (y * second).sum()

    assert saved_bytes(forward, inputs=[x, first, second]) == 2 * CODES


@pytest.mark.parametrize("view", [lambda y: y.t(), lambda y: y[:, : D // 2], lambda y: y[::2]])
@pytest.mark.parametrize("codes_first", [False, True])
def test_an_exact_view_is_kept_instead_of_codes(view, codes_first):
    """Stock autograd keeps the storage for it, whatever part of it that is."""
    x, w = leaf(), leaf(seed=1)

    def forward():
        y = hidden(x)
        uses = [lambda: view(y).sin().sum(), lambda: (y * w).sum()]
        return sum(use() for use in (reversed(uses) if codes_first else uses))

    assert saved_bytes(forward, inputs=[x, w]) == FLOATS


def test_transposed_and_strided_views_come_back_in_place():
    x = leaf()
    w = torch.randn(N, 3)
    with compressed_saves(bits=8):
        y = hidden(x).t()
        loss = (y @ w).square().sum() + (y[::2] * y[1::2]).sum()
    (grad,) = torch.autograd.grad(loss, x)
    y = x.t()
    (expected,) = torch.autograd.grad((y @ w).square().sum() + (y[::2] * y[1::2]).sum(), x)
    assert (grad - expected).norm() / expected.norm() < 0.01


def test_only_what_saves_half_and_4_kib_is_packed():
    x, w = leaf(16, D), leaf(D, D, seed=1)
    kept = saved_bytes(lambda: (hidden(x) @ w).sum(), inputs=[x, w])
    assert kept == 16 * D * 4, "4 KiB as they are: nothing could save 4 KiB of it"
    assert (
        saved_bytes(lambda: (hidden(x) @ w).sum(), inputs=[x, w], min_saved_bytes=1) == CODES // 8
    )
    narrow = leaf(4096, 2)  # a row of its own would take 7 bytes for 8
    kept = saved_bytes(lambda: (hidden(narrow) * hidden(narrow)).sum(), inputs=narrow)
    assert kept == 2 * 32 * (64 + 6), "256 numbers after another"
