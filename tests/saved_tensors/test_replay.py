"""compressed_saves with a recording: the same codes without a dispatch mode, or no wrong ones."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from helpers.saved_tensors import (
    CODES,
    FLOATS,
    Cube,
    D,
    N,
    Net,
    gradients,
    hidden,
    leaf,
    rows,
    step,
)
from recbole_tinykg.embedding.shared_table import SharedTable
from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.saved_tensors import Recording, compressed_saves, measure_bias


class Program(nn.Module):
    """A table, two weights, and a function of them and an index."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.function = nn.Embedding(50, D), function
        self.relations = nn.Embedding(7, D)
        self.first, self.second = nn.Linear(D, D), nn.Parameter(torch.randn(N, D))

    def forward(self, index):
        return self.function(self, index)


def expression(net, index):
    head, tail = net.table(index), net.table(index.flip(0))
    relation = net.relations(index % 7)
    both = torch.cat([head + relation, net.relations.weight[3].expand_as(head) - tail])
    return (both[:N] * net.second + both[N:] * net.second).sum() + (head * tail).sum()


def shared(net, index):
    table = SharedTable(net.table.weight)
    both = torch.cat([table.rows(index), table.rows(index.flip(0))])
    return (both[:N] * net.second).sum() + both.square().sum()


def indexed(net, index):
    return (net.table.weight[index] * net.second).sum()


def selected(net, index):
    return (net.table.weight.index_select(0, index) * net.second).sum()


def in_place(net, index):
    y = net.first(net.table(index))
    loss = (y * net.second).sum()
    y.mul_(2.0)
    return loss + (y * net.second).sum()


def through_data(net, index):
    y = net.first(net.table(index))
    loss = (y * net.second).sum()
    y.data.mul_(2.0)
    return loss + (y * net.second).sum()


def views(net, index):
    y = net.first(net.table(index))
    return (y.t() @ y).sum() + (y[::2] * y[1::2]).sum() + (y[:, :8] * net.second[:, :8]).sum()


def activations(net, index):
    y = net.first(net.table(index))
    return (
        F.normalize(torch.relu(y) + y.exp() + F.leaky_relu(y, 0.2)).square() + y.tanh().sigmoid()
    ).sum()


def function(net, index):
    y = net.first(net.table(index))
    return Cube.apply(y).sum() + (y * net.second).sum() + Cube.apply(net.table(index)).sum()


def checkpointed(net, index):
    y = checkpoint(lambda x: net.first(F.relu(x)), net.table(index), use_reentrant=False)
    return (y * y).sum()


def nested(net, index):
    y = net.first(net.table(index))
    with compressed_saves(net, 8):
        z = (y * y).sum()
    return z + (y * net.second).sum()


def autocast(net, index):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.first(net.table(index)).square().mean()


PROGRAMS = [
    expression,
    shared,
    indexed,
    selected,
    in_place,
    through_data,
    views,
    activations,
    function,
    checkpointed,
    nested,
    autocast,
]


@pytest.mark.parametrize("function", PROGRAMS)
def test_replayed_steps_are_those_of_the_dispatch_mode(function):
    """Bytes and every bit of every gradient: the same tensors have drawn the same noise."""
    net, runs = Program(function), []
    for recording in (None, Recording()):
        streams = NoiseStreams(0, 1)
        runs.append([step(net, rows(seed), streams, recording) for seed in range(4)])
    assert [has_mode for _, has_mode, _ in runs[1]] == [True, False, False, False]
    for number, (expected, found) in enumerate(zip(*runs, strict=True)):
        assert found[0] == expected[0], number
        assert found[2].keys() == expected[2].keys()
        for name, grad in expected[2].items():
            assert torch.equal(found[2][name], grad), (number, name)


def test_each_shape_of_a_batch_is_recorded():
    net, recording, streams = Net(), Recording(), NoiseStreams(0, 1)
    sizes, modes = (N, N // 2, N, N // 2), []
    for size in sizes:
        bytes_kept, has_mode, _ = step(net, rows()[:size], streams, recording)
        modes.append((has_mode, bytes_kept))
    assert [has_mode for has_mode, _ in modes] == [True, True, False, False]
    assert modes[0][1] == modes[2][1] and modes[1][1] == modes[3][1]


def test_training_and_evaluation_are_recorded_apart():
    net, recording, streams = Net(), Recording(), NoiseStreams(0, 1)
    modes = [step(net.train(t), rows(), streams, recording)[1] for t in (True, False, True, False)]
    assert modes == [True, True, False, False]


def test_second_derivatives_are_refused_in_a_replayed_step():
    net, recording = Net(), Recording()
    for _ in range(2):
        with compressed_saves(net, recording=recording):
            loss = net(rows())
    with pytest.raises(RuntimeError, match="create_graph must be False for compressed_saves"):
        gradients(loss, net, create_graph=True)


def test_backward_twice_and_inside_a_replayed_block():
    net, recording = Net(), Recording()
    expected = None
    for _ in range(3):
        with compressed_saves(net, recording=recording):
            loss = net(rows())
            first = gradients(loss, net, retain_graph=True)
        second = gradients(loss, net)
        assert all(map(torch.equal, first, second))
        assert expected is None or all(map(torch.equal, first, expected))
        expected = first


def test_an_error_in_a_block_is_recorded_as_no_end():
    net, recording, streams = Net(), Recording(), NoiseStreams(0, 1)
    for _ in range(2):
        with (
            pytest.raises(ZeroDivisionError),
            compressed_saves(net, resident=[rows()], recording=recording),
        ):
            net.first(net.table(rows()))
            raise ZeroDivisionError
    assert [step(net, rows(), streams, recording)[1] for _ in range(3)] == [True, False, False]
    with (
        pytest.raises(ZeroDivisionError),
        compressed_saves(net, resident=[rows()], recording=recording),
    ):
        raise ZeroDivisionError
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_two_models_with_one_recording_get_their_own_gradients():
    nets, recording = [Net(), Net()], Recording()
    with torch.no_grad():
        nets[1].table.weight.mul_(2)
    for net in nets * 3:
        with compressed_saves(net, 8, recording=recording):
            loss = net(rows())
        exact = gradients(net(rows()), net)
        for found, expected in zip(gradients(loss, net), exact, strict=True):
            assert (found - expected).norm() <= 0.02 * expected.norm()


def test_threads_may_share_a_recording():
    net, recording, found = Net(), Recording(), {}
    with compressed_saves(net):
        alone = gradients(net(rows()), net)

    def work(number):
        for _ in range(10):
            with compressed_saves(net, recording=recording):
                loss = net(rows())
            found.setdefault(number, []).append(gradients(loss, net))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(grads) for grads in found.values()) == 30
    assert all(all(map(torch.equal, grads, alone)) for each in found.values() for grads in each)


def test_a_copy_of_a_recording_is_empty():
    net, recording, streams = Net(), Recording(), NoiseStreams(0, 1)
    step(net, rows(), streams, recording)
    for copied in (copy.deepcopy(recording), pickle.loads(pickle.dumps(recording))):
        assert step(net, rows(), streams, copied)[1]


def test_a_recording_holds_no_tensors_and_no_model():
    net, recording = Net(), Recording()
    step(net, rows(), NoiseStreams(0, 1), recording)
    seen = weakref.ref(net), weakref.ref(net.table.weight)
    del net
    gc.collect()
    assert [reference() for reference in seen] == [None, None]


def test_measure_bias_measures_replayed_gradients(monkeypatch):
    net = Net()
    found = measure_bias(net, lambda: net(rows()), 2, draws=4)
    monkeypatch.setattr(Recording, "plan", lambda *args: None)
    assert found == measure_bias(net, lambda: net(rows()), 2, draws=4)


def test_a_replayed_block_keeps_what_the_first_one_did_under_a_meter_that_keeps_nothing():
    x, recording = nn.Parameter(leaf().detach()), Recording()
    net = nn.ParameterList([x])
    for _ in range(2):
        with saved_tensors(net, keep=False) as saved, compressed_saves(net, recording=recording):
            loss = (hidden(x) * hidden(x)).sum() + hidden(x).sigmoid().sum()
        assert saved.num_bytes == 2 * CODES + FLOATS
        del loss
