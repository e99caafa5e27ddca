"""compressed_saves together with everything else that uses autograd."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from helpers.saved_tensors import CODES, FLOATS, D, N, Net, gradients, hidden, leaf, rows
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.saved_tensors import compressed_saves


def test_backward_twice_gives_the_same_gradient_twice():
    net = Net()
    with compressed_saves(net):
        loss = net(rows())
    first = gradients(loss, net, retain_graph=True)
    assert all(map(torch.equal, first, gradients(loss, net)))


def test_several_graphs_and_accumulated_gradients():
    net = Net()
    streams = NoiseStreams(0, 1)
    losses = []
    for seed in (0, 1):
        with compressed_saves(net, streams=streams):
            losses.append(net(rows(seed)))
    together = [gradients(loss, net, retain_graph=True) for loss in losses]
    for loss in reversed(losses):
        loss.backward()
    for p, first, second in zip(net.parameters(), *together, strict=True):
        assert torch.equal(p.grad, second + first)


def test_backward_may_run_inside_the_block():
    net, indices = Net(), rows()
    with compressed_saves(net):
        inside = gradients(net(indices), net)
    with compressed_saves(net):
        loss = net(indices)
    assert all(map(torch.equal, inside, gradients(loss, net)))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_checkpoint(reentrant, inside):
    """It keeps exactly its inputs; what it recomputes is kept as it is, for a moment."""
    net, x = Net(), leaf()
    w = torch.randn(D, 1)

    def step(bits, inside):
        net.zero_grad()
        with compressed_saves(net, bits):
            y = checkpoint(
                lambda x: net.second(F.relu(net.first(x))), x + 0, use_reentrant=reentrant
            )
            loss = (y @ w).sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    expected = step(32, False)
    assert len(expected) == 4
    assert all(map(torch.equal, step(1, inside), expected))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_block_in_what_checkpoint_recomputes(reentrant):
    """Forward and recomputation keep the same; each takes noise of its own."""
    net, x, streams = Net(), leaf(), NoiseStreams(0, 1)

    def segment(x, bits):
        with compressed_saves(net, bits, streams=streams):
            return net.second(F.relu(net.first(x * x))).square() * x

    grads = []
    for bits in (32, 8):
        y = checkpoint(segment, hidden(x), bits, use_reentrant=reentrant)
        z = checkpoint(segment, y, bits, use_reentrant=reentrant)
        x.grad = None
        z.sum().backward()
        grads.append(x.grad)
    assert 0 < (grads[1] - grads[0]).norm() / grads[0].norm() < 0.05
    assert streams.step == 4


def test_second_derivatives_are_refused():
    net = Net()
    with compressed_saves(net):
        loss = net(rows())
    with pytest.raises(RuntimeError, match="create_graph must be False for compressed_saves"):
        gradients(loss, net, create_graph=True)


def test_second_derivatives_of_what_is_kept_exactly_are_exact():
    x, seconds = leaf(), []
    for bits in (32, 1):
        with compressed_saves(bits=bits):
            loss = hidden(x).tanh().sin().sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        seconds += torch.autograd.grad(first.sum(), x)
    assert seconds[0].any() and torch.equal(*seconds)


def test_a_function_may_differentiate_again_what_it_saved():
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                return torch.autograd.grad(x.sin(), x, grad)

    x, weight = leaf(), leaf(N, D, seed=1)
    with compressed_saves():
        y = hidden(x)
        loss = (y * weight).sum() + Sine.apply(y).sum()
    (grad,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(grad, weight + x.cos())


def test_lazy_modules():
    net = nn.LazyLinear(D)
    with compressed_saves(net):
        loss = net(leaf().detach()).square().sum()
    loss.backward()
    assert net.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["second.weight", "table.weight"])
def test_a_parameter_that_changed_since_forward_is_an_error(name):
    net = Net()
    with compressed_saves(net):
        loss = net(rows())
    with torch.no_grad():
        net.get_parameter(name).mul_(2)
    with pytest.raises(RuntimeError, match="modified in place since forward"):
        loss.backward()


@pytest.mark.parametrize("hooked", [False, True])
def test_an_activation_kept_as_it_is_that_changed_is_an_error(hooked):
    x = leaf()
    with saved_tensors() if hooked else compressed_saves(bits=32), compressed_saves():
        y = hidden(x).sigmoid()
        loss = y.sum()
        y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified in place since forward"):
        loss.backward()


def test_the_meter_counts_codes_outside_and_floats_inside():
    x, w = leaf(), leaf(D, D, seed=1)
    with saved_tensors(inputs=[x, w]) as outside, compressed_saves():
        loss = (hidden(x) * hidden(x)).sum()
    assert outside.num_bytes == 2 * CODES
    assert {tensor.where.split(":")[0] for tensor in outside.tensors} == {Path(__file__).name}
    loss.backward()
    with compressed_saves(), saved_tensors(inputs=[x, w]) as inside:
        loss = (hidden(x) * hidden(x)).sum()
    assert inside.num_bytes == 2 * FLOATS
    loss.backward()


def test_what_is_kept_can_be_counted_without_being_kept():
    x = leaf()
    with saved_tensors(inputs=x, keep=False) as saved, compressed_saves():
        loss = (hidden(x) * hidden(x)).sum() + hidden(x).sigmoid().sum()
    assert saved.num_bytes == 2 * CODES + FLOATS
    with pytest.raises(RuntimeError, match="keeps nothing"):
        loss.backward()


def test_offloading_around_the_block_gets_the_codes():
    net = Net()
    with compressed_saves(net):
        loss = net(rows())
    expected = gradients(loss, net)
    with torch.autograd.graph.save_on_cpu(), compressed_saves(net):
        loss = net(rows())
    assert all(map(torch.equal, gradients(loss, net), expected))


def test_blocks_nest_and_the_inner_one_decides():
    net = Net()
    with compressed_saves(net, 8):
        loss = net(rows())
    expected = gradients(loss, net)
    with compressed_saves(net, 1), compressed_saves(net, 8):
        loss = net(rows())
    assert all(map(torch.equal, gradients(loss, net), expected))


def test_threads_do_not_interfere():
    net, found = Net(), {}
    with compressed_saves(net):
        alone = gradients(net(rows()), net)

    def work(bits):
        for _ in range(5):
            with compressed_saves(net, bits):
                loss = net(rows())
            found[bits] = gradients(loss, net)

    threads = [threading.Thread(target=work, args=(bits,)) for bits in (2, 8, 32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, found[2], alone))
    assert all(map(torch.equal, found[32], gradients(net(rows()), net)))


def test_backward_frees_what_was_kept_and_the_block_holds_nothing():
    x = leaf()
    with compressed_saves():
        y = hidden(x)
        kept = weakref.ref(y)
        loss = (y * y).sum() + y.sigmoid().sum()
        z = y.exp()
        loss = loss + z.sum()
        graph = weakref.ref(z)
        del y, z
        assert graph() is None
    loss.backward()
    del loss
    gc.collect()
    assert kept() is None


def test_an_error_inside_leaves_nothing_behind():
    net = Net()
    with pytest.raises(ZeroDivisionError), compressed_saves(net):
        net(rows())
        raise ZeroDivisionError
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_autocast_keeps_no_copy_of_a_weight():
    net, indices = Net(), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16), compressed_saves(net, 8):
        loss = net(indices)
    grads = gradients(loss, net)
    for got, expected in zip(grads, gradients(net(indices), net), strict=True):
        assert (got - expected).norm() / expected.norm() < 0.05


def test_sparse_matrices_are_kept_as_they_are():
    matrix = torch.eye(N).to_sparse()
    x = leaf()
    with compressed_saves():
        loss = torch.sparse.mm(matrix, hidden(x)).sum()
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.ones(N, D))


def test_without_gradients_nothing_is_kept():
    with saved_tensors() as saved, compressed_saves(), torch.no_grad():
        result = Net()(rows())
    assert saved.num_bytes == 0 and not result.requires_grad


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigurationError, match="bits must be one of"), compressed_saves(bits=3):
        pass
    with (
        pytest.raises(ConfigurationError, match="rounding must be"),
        compressed_saves(rounding="up"),
    ):
        pass
