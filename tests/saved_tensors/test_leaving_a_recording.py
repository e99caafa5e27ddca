"""Steps that leave their recording: kept exactly, refused, or decided anew, but never wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.saved_tensors import D, gradients, hidden, leaf, rows, step
from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.saved_tensors import Recording


class Branch(nn.Module):
    """Takes one turn or the other."""

    def __init__(self, *turns):
        super().__init__()
        self.x, self.turns, self.turn = nn.Parameter(leaf().detach()), turns, 0
        self.weight = nn.Parameter(leaf(seed=1).detach())

    def forward(self, _):
        return self.turns[self.turn](hidden(self.x), self.weight)


def exact(net):
    (loss,) = (net(None).sum(),)
    return gradients(loss, net, materialize_grads=True)


def test_another_turn_is_kept_exactly_then_recorded_then_replayed():
    net = Branch(lambda y, w: (y * w).sum(), lambda y, w: (y * w).sum() + (y.square() * w).sum())
    recording, streams, index = Recording(), NoiseStreams(0, 1), rows()
    found = []
    for turn in (0, 0, 1, 1, 1, 0):
        net.turn = turn
        found.append(step(net, index, streams, recording))
    assert [has_mode for _, has_mode, _ in found] == [True, False, False, True, False, False]
    codes = [bytes_kept for bytes_kept, _, _ in found]
    assert codes[0] == codes[1] == codes[5] and codes[3] == codes[4]
    net.turn = 1
    names = [name for name, _ in net.named_parameters()]
    for name, expected in zip(names, exact(net), strict=True):
        distance = (found[2][2][name] - expected).norm() / expected.norm()
        assert distance < (found[3][2][name] - expected).norm() / expected.norm() or distance == 0


def test_a_program_that_never_repeats_is_decided_anew():
    """After some misses nothing is replayed any more, so it keeps what it keeps without one."""
    net = Branch(*(lambda y, w, n=n: sum((y * w).sum() for _ in range(n)) for n in range(1, 41)))
    recording, streams, modes = Recording(), NoiseStreams(0, 1), []
    for turn in range(40):
        net.turn = turn
        modes.append(step(net, rows(), streams, recording)[1])
    assert all(modes[20:])


@pytest.mark.parametrize(
    "turns",
    [
        (torch.square, torch.cos),
        (lambda y: y**2, lambda y: y**3),
        (torch.relu, torch.sigmoid),
    ],
)
def test_codes_are_refused_to_another_operation_at_the_same_place(turns):
    """Place, shapes and numbers of nodes agree, so only the node that reads can tell."""
    exponents = {turns[0]: 2, turns[1]: 3}

    def forward(y, w, act):
        if isinstance(act, int):
            return (y**act).sum()
        return act(y).sum()

    acts = [exponents[t] if "lambda" in t.__name__ else t for t in turns]
    net = Branch(*(lambda y, w, act=act: forward(y, w, act) for act in acts))
    recording, streams = Recording(), NoiseStreams(0, 1)
    step(net, rows(), streams, recording)
    net.turn = 1
    with pytest.raises(RuntimeError, match="replayed with the operations that were recorded"):
        step(net, rows(), streams, recording)
    found = step(net, rows(), streams, recording)
    assert found[1] and torch.equal(found[2]["x"], exact(net)[0])


def test_rows_of_another_table_at_the_same_place_are_not_gathered_from_the_first():
    class Tables(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(50, D) for _ in range(2))
            self.weight, self.chosen = nn.Parameter(leaf(seed=1).detach()), 0

        def forward(self, index):
            return (self.tables[self.chosen](index) * self.weight).sum()

    net, recording, streams, index = Tables(), Recording(), NoiseStreams(0, 1), rows()
    step(net, index, streams, recording)
    net.chosen = 1
    _, has_mode, grads = step(net, index, streams, recording)
    assert not has_mode
    assert torch.equal(grads["weight"], net.tables[1].weight[index])


class Changing(nn.Module):
    """Gathers rows, saves them, and may write to the table or the index before or after that."""

    def __init__(self):
        super().__init__()
        self.table, self.weight = nn.Embedding(50, D), nn.Parameter(leaf(seed=1).detach())
        self.before = self.after = lambda net, index: None

    def forward(self, index):
        read = self.table(index)
        with torch.no_grad():
            self.before(self, index)
        loss = (read * self.weight).sum()
        with torch.no_grad():
            self.after(self, index)
        return loss


def double(net, index):
    net.table.weight.mul_(2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_table_that_changes_in_the_block_is_never_replayed(when):
    net, recording, streams = Changing(), Recording(), NoiseStreams(0, 1)
    setattr(net, when, double)
    assert [step(net, rows(), streams, recording)[1] for _ in range(3)] == [True] * 3


def test_rows_read_before_a_change_in_a_replayed_step_are_kept():
    net, recording, streams, index = Changing(), Recording(), NoiseStreams(0, 1), rows()
    step(net, index, streams, recording)
    net.before, read = double, net.table.weight.detach()[index]
    _, has_mode, grads = step(net, index, streams, recording)
    assert not has_mode and torch.equal(grads["weight"], read)


@pytest.mark.parametrize("change", [double, lambda net, index: index.zero_()])
def test_a_change_after_rows_were_saved_in_a_replayed_step_is_an_error(change):
    net, recording, streams = Changing(), Recording(), NoiseStreams(0, 1)
    step(net, rows(), streams, recording)
    net.after = change
    with pytest.raises(RuntimeError, match="modified in place since forward"):
        step(net, rows(), streams, recording)
