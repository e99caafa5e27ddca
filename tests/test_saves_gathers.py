"""compressed_saves: rows gathered from tables that stay, and tables that change meanwhile."""

from __future__ import annotations

import pytest
import torch
from saves import CODES, FLOATS, D, N, Net, gradients, kept_bytes, leaf, rows
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from recbole_tinykg.meter import saved_tensors
from recbole_tinykg.saves import compressed_saves


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
    """Rows read before it is normalised again are an activation if nobody has saved them yet."""
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
    assert kept_bytes(lambda: net(index), net, index) == FLOATS
    unchanged = Table(lambda module, index: None)
    assert kept_bytes(lambda: unchanged(index), unchanged, index) == 0


def test_rows_saved_only_after_the_table_changed_are_an_activation():
    net, index = Table(None), rows()

    def forward():
        read = net.table[index]
        net.table.mul_(2)
        return (read * net.weight).sum()

    assert kept_bytes(forward, net, index) == CODES


def test_a_table_changed_after_the_block_is_an_error_that_names_the_rows():
    net = Table(lambda module, index: None)
    with compressed_saves(net):
        loss = net(rows())
    net.table.mul_(2)
    with pytest.raises(RuntimeError, match="rows gathered from it"):
        loss.backward()


def test_nothing_is_kept_of_rows_that_nobody_saves():
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
