"""Lookups that share a gradient map per table against lookups with a map each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_tinykg.embedding import SharedTable, TableEmbedding, shared_gradients
from recbole_tinykg.memory.meter import peak_bytes, saved_tensors

NUM_ROWS, DIM = 7, 3
INDICES = torch.tensor([0, 3, 3]), torch.tensor([[1, 3], [6, 0]]), torch.tensor(5), torch.arange(0)


def table(num_rows=NUM_ROWS, dim=DIM, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(num_rows, dim, dtype=dtype, requires_grad=True)


def loss_of(lookup):
    return sum((i + 2) * lookup(index).square().sum() for i, index in enumerate(INDICES))


def test_rows_and_gradient_are_those_of_separate_lookups():
    weight = table()
    shared = SharedTable(weight)
    for index in INDICES:
        assert torch.equal(shared.rows(index), weight[index])
    (got,) = torch.autograd.grad(loss_of(shared.rows), weight)
    (expected,) = torch.autograd.grad(loss_of(lambda index: weight[index]), weight)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)


def test_other_uses_of_the_table_add_to_the_gradient():
    weight = table()
    shared = SharedTable(weight)
    (got,) = torch.autograd.grad(loss_of(shared.rows) + weight.square().sum(), weight)
    (expected,) = torch.autograd.grad(loss_of(lambda i: weight[i]) + weight.square().sum(), weight)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)


def test_backward_twice_gives_the_same_gradient():
    weight = table()
    loss = loss_of(SharedTable(weight).rows)
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_two_losses_of_one_table_have_gradients_of_their_own():
    weight, index = table(), torch.tensor([0, 2])
    rows = SharedTable(weight)
    losses = [rows.rows(index).sum(), rows.rows(index + 1).sum()]
    for loss, touched in zip(losses, ([0, 2], [1, 3]), strict=True):
        (got,) = torch.autograd.grad(loss, weight)
        assert got.any(dim=1).nonzero().view(-1).tolist() == touched


def test_a_backward_that_failed_leaves_nothing_behind():
    weight, fails = table(), [True]

    def hook(grad):
        if fails[0]:
            raise ValueError("on purpose")

    shared = SharedTable(weight)
    early = shared.rows(INDICES[0])
    early.register_hook(hook)
    loss = early.sum() + shared.rows(INDICES[1]).sum()  # the later one runs first
    with pytest.raises(ValueError, match="on purpose"):
        torch.autograd.grad(loss, weight, retain_graph=True)
    fails[0] = False
    (got,) = torch.autograd.grad(loss, weight)
    expected = torch.zeros(NUM_ROWS).index_add_(
        0, torch.cat([INDICES[0], INDICES[1].view(-1)]), torch.ones(7)
    )
    assert torch.equal(got[:, 0].float(), expected)


def test_gradient_of_an_unused_table_is_none():
    weight = table()
    SharedTable(weight)
    other = torch.ones((), requires_grad=True)
    other.backward()
    assert weight.grad is None


def test_second_derivatives_are_refused():
    weight = table()
    with pytest.raises(RuntimeError, match="create_graph must be False"):
        torch.autograd.grad(loss_of(SharedTable(weight).rows), weight, create_graph=True)


def test_one_map_is_alive_in_backward():
    peaks = []
    embedding = nn.Embedding(10_000, 64)
    model = nn.Sequential(TableEmbedding(embedding))
    index = torch.arange(8)
    for lookup in (embedding, model):
        embedding.weight.grad = None
        with shared_gradients(model), peak_bytes() as peak:
            sum(lookup(index).sum() for _ in range(3)).backward()
        peaks.append(peak.num_bytes)
    map_bytes = embedding.weight.nbytes
    assert peaks[0] >= 2 * map_bytes
    assert map_bytes <= peaks[1] < 1.1 * map_bytes


def test_nothing_but_indices_is_saved():
    embedding = TableEmbedding(nn.Embedding(NUM_ROWS, DIM))
    with shared_gradients(embedding), saved_tensors(embedding) as saved:
        rows = embedding(torch.tensor([1, 2]))
    assert {tensor.dtype for tensor in saved.tensors} == {torch.int64}
    assert rows.requires_grad


def test_embedding_keeps_its_parameter_and_its_name():
    plain = nn.Embedding(NUM_ROWS, DIM)
    embedding = TableEmbedding(plain)
    assert embedding.weight is plain.weight
    assert list(embedding.state_dict()) == ["weight"]


@pytest.mark.parametrize(
    "special", [{"padding_idx": 0}, {"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": 1}]
)
def test_special_embeddings_stay_as_they_are(special):
    assert TableEmbedding.fits(nn.Embedding(NUM_ROWS, DIM))
    assert not TableEmbedding.fits(nn.Embedding(NUM_ROWS, DIM, **special))


def test_without_gradients_nothing_is_shared():
    embedding = TableEmbedding(nn.Embedding(NUM_ROWS, DIM))
    with torch.no_grad(), shared_gradients(embedding):
        assert embedding.table is None
        assert not embedding(torch.tensor(1)).requires_grad
    with shared_gradients(embedding):
        assert embedding.table is not None
    assert embedding.table is None
