"""A model's layers and its loss compile into one graph each and give the same numbers."""

from __future__ import annotations

import pytest
import torch

from helpers.graphs import CONFIG, GraphDataset, batches
from recbole_tinykg.functional import bpr_loss
from recbole_tinykg.model.kgat import TinyKGAT

# PyTorch's compiler warns of what it does itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EPS = torch.finfo(torch.float32).eps


def gradients(output, inputs):
    inputs = [x for x in inputs if x.requires_grad]
    return [g for g in torch.autograd.grad(output, inputs, allow_unused=True) if g is not None]


def assert_same_numbers(compiled, eager):
    """Kernels of the compiler add in their own order: a few units in the last place of the sums."""
    for ours, expected in zip(compiled, eager, strict=True):
        assert (ours - expected).norm() <= 8 * EPS * expected.norm()


# Inductor takes some 20 seconds a model; one of them shows that its code and our kernels meet.
@pytest.mark.parametrize(
    ("aggregator", "backend"),
    [("bi", "aot_eager"), ("gcn", "aot_eager"), ("graphsage", "aot_eager"), ("bi", "inductor")],
)
def test_layers_compile_into_one_graph(aggregator, backend):
    settings = {"aggregator_type": aggregator, "mess_dropout": 0.2, "compress_bits": 2}
    model = TinyKGAT({**CONFIG, **settings}, GraphDataset())
    rows = model._rows(torch.tensor([1, 2, 5]), torch.tensor([1, 3]))[0]
    sites = model.current_sites()

    def layers():
        return sum(output.square().sum() for output in model._propagate(rows, sites))

    with torch.random.fork_rng():  # the compiler seeds it
        compiled = torch.compile(layers, fullgraph=True, backend=backend)()
    eager = layers()
    assert_same_numbers([compiled], [eager])
    parameters = list(model.parameters())
    assert_same_numbers(gradients(compiled, parameters), gradients(eager, parameters))


def test_ranking_loss_compiles_into_one_graph():
    model = TinyKGAT(CONFIG, GraphDataset())
    batch = batches(GraphDataset())[0]
    items = torch.cat([batch["item_id"], batch["neg_item_id"]])
    rows, users, items = model._rows(batch["user_id"], items)
    sites = model.current_sites()
    outputs = [output.detach().requires_grad_() for output in model._propagate(rows, sites)]

    def loss(*outputs):
        pairs = (users, *items.chunk(2))
        return bpr_loss(sites, outputs, rows, model._parts(), pairs, 1e-2)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*outputs)
    assert_same_numbers([compiled], [loss(*outputs)])
    assert_same_numbers(gradients(compiled, outputs), gradients(loss(*outputs), outputs))
