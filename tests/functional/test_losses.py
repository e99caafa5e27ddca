"""The loss functions against autograd on the same formulas, in float64 and without compression."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from recbole_tinykg.functional import add_bpr_sites, bpr_loss, transr_loss
from recbole_tinykg.functional.bpr import EPS
from recbole_tinykg.graph.node_rows import NodeRows
from recbole_tinykg.quantization import Quantizer, Sites

SIZES, DIMS, BATCH = (6, 9), (5, 4, 3), 20


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def ranking():
    """Parameters, rows, pairs, and hidden outputs of which one row is zero and one nearly so."""
    parts = draw(SIZES[0], DIMS[0]), draw(SIZES[1], DIMS[0], seed=1)
    rows = NodeRows.from_parts(torch.tensor([0, 2, 5]), torch.tensor([1, 2, 4, 8]), SIZES[0])
    hidden = [draw(7, dim, seed=dim) for dim in DIMS[1:]]
    with torch.no_grad():
        hidden[0][1] = 0
        hidden[0][4] *= EPS / 10
    generator = torch.Generator().manual_seed(5)
    user = torch.randint(0, 3, (BATCH,), generator=generator)
    items = torch.randint(3, 7, (2, BATCH), generator=generator)
    return parts, rows, (user, *items), hidden


@pytest.mark.parametrize("reg_weight", [0.0, 0.7])
def test_bpr_equals_autograd(ranking, reg_weight):
    parts, rows, pairs, hidden = ranking
    x = rows.gather(parts)
    z = torch.cat([x, *(F.normalize(h, dim=1) for h in hidden)], dim=1)
    user, positive, negative = (z[index] for index in pairs)
    score = (user * positive).sum(1) - (user * negative).sum(1)
    norms = user.norm() + positive.norm() + negative.norm()
    expected = -torch.log(1e-10 + torch.sigmoid(score)).mean() + reg_weight * norms / BATCH
    inputs = [*parts, *hidden]
    expected_grads = torch.autograd.grad(3 * expected, inputs)

    outputs = (rows.gather(parts), *hidden)
    sites = Sites()
    add_bpr_sites(sites, len(hidden))
    step = sites.table(Quantizer(32)).at(torch.zeros(len(sites), 2, dtype=torch.int64))
    loss = bpr_loss(step, outputs, rows, parts, pairs, reg_weight)
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(3 * loss, inputs)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize("reg_weight", [0.0, 0.7])
def test_transr_equals_autograd(reg_weight, static_shapes):
    entities, relations = draw(11, 5), draw(4, 3, seed=1)
    projections = draw(4, 15, seed=2)
    generator = torch.Generator().manual_seed(3)
    h, t, n = torch.randint(0, 11, (3, BATCH), generator=generator)
    r = torch.randint(0, 3, (BATCH,), generator=generator)  # relation 3 does not occur
    matrices = projections[r].view(BATCH, 5, 3)
    head, tail, corrupted = (
        torch.bmm(entities[e].unsqueeze(1), matrices).squeeze(1) for e in (h, t, n)
    )
    near = ((head + relations[r] - tail) ** 2).sum(1)
    far = ((head + relations[r] - corrupted) ** 2).sum(1)
    norms = sum(e.norm() for e in (head, relations[r], tail, corrupted))
    expected = F.softplus(near - far).mean() + reg_weight * norms / BATCH
    inputs = [entities, relations, projections]
    expected_grads = torch.autograd.grad(3 * expected, inputs)

    loss = transr_loss(*inputs, (h, r, t, n), reg_weight, static_shapes=static_shapes)
    torch.testing.assert_close(loss, expected)
    for grad, other in zip(torch.autograd.grad(3 * loss, inputs), expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-13)


def test_transr_with_static_shapes_reads_no_number():
    """Fake tensors have shapes and no numbers."""
    mode = FakeTensorMode()
    inputs = [mode.from_tensor(x.detach()) for x in (draw(11, 5), draw(4, 3), draw(4, 15))]
    triples = tuple(mode.from_tensor(torch.tensor([1, 2, 3])) for _ in range(4))
    with mode:
        inputs = [x.requires_grad_() for x in inputs]
        transr_loss(*inputs, triples, 0.1, static_shapes=True).backward()
    assert all(x.grad.shape == x.shape for x in inputs)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_transr_keeps_nothing_of_its_own(static_shapes):
    inputs = draw(11, 5), draw(4, 3), draw(4, 15)
    triples = tuple(torch.tensor([1, 2, 3]) for _ in range(4))
    saved = []

    def pack(tensor):
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        transr_loss(*inputs, triples, 0.1, static_shapes=static_shapes)
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*inputs, *triples)}
    assert saved and set(saved) <= owned
