"""compressed_saves: rows gathered from tables that stay, and from tables that change."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from helpers.saved_tensors import CODES, FLOATS, D, N, Net, gradients, leaf, rows, saved_bytes
from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.saved_tensors import compressed_saves


class Table(nn.Module):
    """A table, its change after it was read, and a weight for what was read."""

    def __init__(self, change):
        super().__init__()
        self.change, self.weight = change, nn.Parameter(leaf(N, D, seed=1).detach())
        self.register_buffer("table", leaf(50, D).detach())

    def forward(self, index):
        loss = (self.table[index] * self.weight).sum()
        with torch.no_grad():
            self.change(self, index)
        return loss


def rotate(module, index):
    module.table[:10] = module.table[-10:].clone()


CHANGES = {
    "queue": rotate,
    "data": lambda module, index: module.table.data.mul_(2),
    "index": lambda module, index: index.zero_(),
    "inference": torch.inference_mode()(lambda module, index: module.table.mul_(2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_read_before_a_table_changes_are_kept(change):
    grads = []
    for bits in (32, 2):
        net = Table(CHANGES[change])
        with compressed_saves(net, bits):
            loss = net(rows())
        grads += gradients(loss, net)
    assert torch.equal(*grads)


def test_a_table_that_is_normalised_whenever_it_is_read():
    """Rows read before it is normalised again are an activation if they are saved after that."""
    grads = []
    for bits in (32, 8):
        net = nn.Embedding(50, D, max_norm=1.0, _weight=leaf(50, D).detach())
        with compressed_saves(net, bits):
            loss = (net(rows()) * net(rows(1))).sum()
        grads += gradients(loss, net)
    assert 0 < (grads[1] - grads[0]).norm() / grads[0].norm() < 0.01


def test_rows_kept_for_a_change_are_counted_once():
    net = Table(lambda module, index: module.table.mul_(2))
    index = rows()
    assert saved_bytes(lambda: net(index), net, index) == FLOATS
    unchanged = Table(lambda module, index: None)
    assert saved_bytes(lambda: unchanged(index), unchanged, index) == 0


def test_rows_saved_only_after_the_table_changed_are_an_activation():
    net, index = Table(None), rows()

    def forward():
        read = net.table[index]
        net.table.mul_(2)
        return (read * net.weight).sum()

    assert saved_bytes(forward, net, index) == CODES


def test_a_table_changed_after_the_block_is_an_error_that_names_the_rows():
    net = Table(lambda module, index: None)
    with compressed_saves(net):
        loss = net(rows())
    net.table.mul_(2)
    with pytest.raises(RuntimeError, match="rows gathered from it"):
        loss.backward()


def test_rows_that_are_not_saved_cost_nothing():
    net, indices = nn.Embedding(50, D), []
    with saved_tensors(net) as saved, compressed_saves(net), torch.no_grad():
        for _ in range(5):
            index = rows()
            indices.append(StorageWeakRef(index.untyped_storage()))
            net(index)
        del index
        assert sum(not index.expired() for index in indices) <= 1
    assert saved.num_bytes == 0


def test_inference_in_the_block():
    net = Net()
    with torch.inference_mode():
        index = rows()
    with compressed_saves(net):
        with torch.no_grad():
            net(index)
        with torch.inference_mode():
            net(rows())
        loss = net(rows())
    assert all(grad.isfinite().all() for grad in gradients(loss, net))


class Expression(nn.Module):
    """Gathered rows, their sums and a concatenation, each times a weight of its own."""

    def __init__(self, change=lambda table: None):
        super().__init__()
        self.change = change
        self.table, self.shift = nn.Embedding(50, D), nn.Parameter(leaf(D).detach())
        self.weights = nn.ParameterList(leaf(2 * N, D, seed=seed).detach() for seed in (1, 2))

    def forward(self, first, second):
        read = self.table(first)
        both = read + self.table(second)
        parts = torch.cat([both, read.unsqueeze(1).squeeze(1) - self.shift.expand_as(read)])
        loss = (parts * self.weights[0]).sum()
        with torch.no_grad():
            self.change(self.table.weight)
        return loss + (torch.cat([parts[:N], both]) * self.weights[1]).sum()


def test_sums_and_concatenations_of_rows_are_recomputed():
    net, indices = Expression(), (rows(), rows(1))
    assert saved_bytes(lambda: net(*indices), net, indices) == 0


def double(table):
    table.mul_(2)


@pytest.mark.parametrize("change", [lambda table: None, double], ids=["same", "changed"])
def test_what_is_recomputed_from_rows_is_exact(change):
    """Also if the table has changed since; what is saved after that is an activation."""
    grads = []
    for bits in (32, 2):
        torch.manual_seed(0)
        net = Expression(change)
        with compressed_saves(net, bits):
            loss = net(rows(), rows(1))
        grads.append(gradients(loss, net))
    names = [name for name, _ in net.named_parameters()]
    for name, exact, found in zip(names, *grads, strict=True):
        assert torch.equal(exact, found) or (change is double and name == "weights.1"), name


def test_long_sums_of_rows_are_packed():
    net, weight = nn.Embedding(50, D), leaf(N, D, seed=1)
    indices = [rows(seed) for seed in range(12)]

    def kept(count):
        return saved_bytes(
            lambda: (sum(net(index) for index in indices[:count]) * weight).sum(),
            net,
            [*indices, weight],
        )

    assert kept(8) == 0
    assert kept(12) == CODES
