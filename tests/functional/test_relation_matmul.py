"""Rows times the matrix of their relation, against a matrix per row; and MKR's unit likewise."""

from __future__ import annotations

import torch
from recbole.model.knowledge_aware_recommender.mkr import CrossCompressUnit

from recbole_tinykg.functional import relation_matmul
from recbole_tinykg.model.generic import CrossCompress


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def test_relation_matmul_equals_a_matrix_per_row():
    x, weight, segments = draw(9, 4, seed=0), draw(5, 4, 3, seed=1), [2, 0, 6, 1, 0]
    relation = torch.repeat_interleave(torch.arange(5), torch.tensor(segments))
    got = relation_matmul(x, segments, weight)
    expected = torch.bmm(x[:, None], weight[relation])[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    grad = draw(9, 3, seed=2).detach()
    grads = (torch.autograd.grad(y, (x, weight), grad) for y in (got, expected))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_relation_matmul_of_no_rows():
    x, weight = draw(0, 4, seed=0), draw(2, 4, 3, seed=1)
    out = relation_matmul(x, [0, 0], weight)
    assert out.shape == (0, 3)
    assert not torch.autograd.grad(out.sum(), weight)[0].any()


def test_relation_matmul_passes_gradcheck():
    x, weight = draw(5, 3, seed=0), draw(2, 3, 2, seed=1)
    assert torch.autograd.gradcheck(lambda x, w: relation_matmul(x, [3, 2], w), (x, weight))


def test_cross_compress_equals_mkr_s_unit():
    torch.manual_seed(0)
    unit = CrossCompressUnit(6).double()
    v, e = draw(8, 6, seed=0), draw(8, 6, seed=1)
    weights = [draw(8, 6, seed=seed).detach() for seed in (2, 3)]
    grads = []
    for module in (unit, CrossCompress(unit)):
        outputs = module([v, e])
        loss = sum((w * y).sum() for w, y in zip(weights, outputs, strict=True))
        parameters = list(module.parameters())
        grads.append((*outputs, *torch.autograd.grad(loss, [v, e, *parameters])))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
