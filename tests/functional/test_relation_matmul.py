"""Rows times the matrix of their relation, against a matrix per row; and MKR's unit likewise."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.model.knowledge_aware_recommender.mkr import CrossCompressUnit
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from recbole_tinykg.functional import relation_matmul
from recbole_tinykg.functional.relation_rows import TILE_ROWS, Tiles
from recbole_tinykg.model.generic import CrossCompress

DIVISIONS = [
    [2, 0, 6, 1, 0],
    [0, TILE_ROWS, 0, TILE_ROWS + 1, TILE_ROWS - 1],
    [0, 0, 0, 0, 3 * TILE_ROWS],
    [1, 1, 1, 1, 1],
]


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def relations(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize("rows_each", [1, 3])
@pytest.mark.parametrize("counts", DIVISIONS)
def test_relation_matmul_equals_a_matrix_per_row(counts, rows_each, static_shapes):
    relation = relations(counts)
    of_row = relation.repeat_interleave(rows_each)
    x, weight = draw(len(of_row), 4, seed=0), draw(5, 4, 3, seed=1)
    got = relation_matmul(x, relation, weight, static_shapes=static_shapes)
    expected = torch.bmm(x[:, None], weight[of_row])[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    grad = draw(len(of_row), 3, seed=2).detach()
    grads = (torch.autograd.grad(y, (x, weight), grad) for y in (got, expected))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_relation_matmul_of_no_rows(static_shapes):
    x, weight = draw(0, 4, seed=0), draw(2, 4, 3, seed=1)
    out = relation_matmul(x, relations([0, 0]), weight, static_shapes=static_shapes)
    assert out.shape == (0, 3)
    assert not torch.autograd.grad(out.sum(), weight)[0].any()


@pytest.mark.parametrize("static_shapes", [False, True])
def test_relation_matmul_passes_gradcheck(static_shapes):
    x, weight, relation = draw(5, 3, seed=0), draw(2, 3, 2, seed=1), relations([3, 2])
    assert torch.autograd.gradcheck(
        lambda x, w: relation_matmul(x, relation, w, static_shapes=static_shapes), (x, weight)
    )


@given(st.lists(st.integers(0, 2 * TILE_ROWS), min_size=1, max_size=8))
def test_tiles_follow_from_shapes_and_hold_every_row(counts):
    relation = relations(counts)
    tiles = Tiles.of(relation, len(counts))
    num_tiles = len(relation) // TILE_ROWS + min(len(counts), len(relation))
    assert tiles.relation.shape == (num_tiles,)
    assert tiles.place.unique().equal(tiles.place)
    assert tiles.relation[tiles.place // TILE_ROWS].equal(relation)
    assert tiles.start[0] == 0 and tiles.start[-1] == num_tiles
    assert relations(tiles.start.diff().tolist()).equal(tiles.relation)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_only_static_shapes_need_no_number(static_shapes):
    """Fake tensors have shapes and no numbers."""
    mode = FakeTensorMode()
    tensors = relations([2, 3]), draw(10, 3, seed=0), draw(2, 3, 4, seed=1)
    relation, x, weight = (mode.from_tensor(tensor.detach()) for tensor in tensors)
    needs = nullcontext() if static_shapes else pytest.raises(DynamicOutputShapeException)
    with mode, needs:
        x.requires_grad_()
        relation_matmul(x, relation, weight, static_shapes=static_shapes).sum().backward()
    assert not static_shapes or x.grad.shape == x.shape


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
