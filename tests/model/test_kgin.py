"""TinyKGIN against RecBole's KGIN, and what is special about it: which edges a step keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from helpers.static_conformance import StaticConformance, assert_places_left_draw_no_noise
from helpers.twin_case import default_dtype, distance
from helpers.unbiased import excess
from recbole_tinykg import ops
from recbole_tinykg.functional.kgin import MEASURES, independence_loss
from recbole_tinykg.functional.kgin import step as intent_step
from recbole_tinykg.graph.relational_graph import RelationalGraph
from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.quantization import NoiseStreams

pytestmark = pytest.mark.filterwarnings(  # RecBole's KGIN inverts degrees, of the padding rows too
    "ignore:divide by zero encountered in power:RuntimeWarning"
)


class TestTinyKGIN(StaticConformance):
    twin = "TinyKGIN"
    variants = [
        {"node_dropout_rate": 0.0},
        {"node_dropout_rate": 0.0, "context_hops": 3, "ind": "distance"},
        {"node_dropout_rate": 0.0, "context_hops": 1, "ind": "mi"},
    ]
    refused = [
        ("embedding_size", 0),
        ("context_hops", "two"),
        ("n_factors", -1),
        ("ind", "correlation"),
        ("node_dropout_rate", 1.5),
        ("mess_dropout_rate", 1.0),
        ("temperature", 0),
        ("reg_weight", "small"),
    ]
    fewer_bytes = 120

    def convert(self, stock, dtype):
        stock.gcn.interact_mat = stock.gcn.interact_mat.to(dtype)


def conformance():
    return TestTinyKGIN()


def kept_edges(twin):
    """Head, relation and tail of the edges that the present step of the twin keeps."""
    mask = twin.plan.edge_mask(twin.current_sites())
    return tuple(column[mask] for column in twin.graph.edges())


class Injected(torch.nn.Module):
    """Returns its argument times the next factor, or the next factor itself."""

    def __init__(self, factors, alone=False):
        super().__init__()
        self.factors, self.alone = iter(factors), alone

    def forward(self, x):
        factor = next(self.factors)
        return factor if self.alone else x * factor


def message_factors(twin, batch):
    """What the twin's dropout multiplies the full maps of entities and users by, hop by hop."""
    users = torch.unique(batch["user_id"])
    items = torch.unique(torch.cat([batch["item_id"], batch["neg_item_id"]]))
    width, dtype = twin.embedding_size, twin.user_embedding.weight.dtype
    for hop in range(1, twin.context_hops + 1):
        sites = twin.current_sites().group(f"hop{hop}")
        rows = items if hop == twin.context_hops else twin.graph.heads
        entities, own_users = (twin.n_entities, rows, "head"), (twin.n_users, users, "user")
        for n, own, kind in (entities, own_users):
            factors = torch.ones(n, width, dtype=dtype)
            factors[own] = twin.plan.drop(factors[own], sites[f"{kind}_dropout"].stream)
            yield factors


def inject(stock, twin, batch):
    """Let stock use the edges and the dropout of the twin's present step."""
    head, relation, tail = kept_edges(twin)
    stock.gcn.edge_sampling = lambda *args: (torch.stack([head, tail]), relation)
    stock.gcn.mess_dropout = Injected(message_factors(twin, batch))
    interactions = twin.graph.interactions
    stream = twin.current_sites()["interactions"].stream
    values = interactions.sample(stream, twin.mess_dropout_rate, transposed=False)
    crow, col = interactions.crow.long(), interactions.col.long()
    row = torch.repeat_interleave(torch.arange(len(crow) - 1), crow.diff())
    matrix = torch.sparse_coo_tensor(torch.stack([row, col]), values, stock.interact_mat.shape)
    stock.gcn.node_dropout = Injected([matrix], alone=True)


@pytest.mark.parametrize("dataset", ["tiny", "ml-100k"])
@pytest.mark.parametrize(
    ("hops", "rate", "static_shapes"),
    [(1, 0.0, False), (1, 0.2, False), (2, 0.0, False), (2, 0.2, False)]
    + [(3, 0.0, False), (3, 0.2, False), (1, 0.2, True), (3, 0.2, True)],
)
def test_equals_stock_on_the_edges_and_the_dropout_of_a_step(dataset, rate, hops, static_shapes):
    case = conformance()
    changes = {"node_dropout_rate": 0.5, "mess_dropout_rate": rate, "context_hops": hops}
    stock, twin = (model.double() for model in case.pair(dataset, **changes))
    twin.static_shapes = static_shapes
    batch = case.data(dataset)[1]["calculate_loss"]
    with default_dtype(torch.float64):
        ours = twin.calculate_loss(batch)
        inject(stock, twin, batch)
        theirs = stock.calculate_loss(batch).squeeze()
        ours.backward()
        theirs.backward()
    assert distance(ours, theirs) < 1e-10
    gradients = dict(twin.named_parameters())
    for name, parameter in stock.named_parameters():
        assert distance(gradients[name].grad, parameter.grad) < 1e-10, name


def test_a_step_keeps_the_share_of_the_edges_and_the_next_one_others():
    case = conformance()
    twin = case.build("TinyKGIN", "ml-100k", node_dropout_rate=0.3)
    batch = case.data("ml-100k")[1]["calculate_loss"]
    masks = []
    for _ in range(2):
        twin.calculate_loss(batch)
        masks.append(twin.plan.edge_mask(twin.current_sites()))
    assert [int(mask.sum()) for mask in masks] == 2 * [int(twin.graph.num_edges * 0.3)]
    assert not torch.equal(*masks)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradient_is_unbiased_on_the_edges_and_the_dropout_of_a_step(bits, monkeypatch):
    """The noise of the codes changes from draw to draw, what is dropped out does not."""
    case = conformance()
    changes = {"context_hops": 3, "mess_dropout_rate": 0.1, "compress_bits": bits}
    model = case.build("TinyKGIN", "tiny", **changes).double()
    batch = case.data("tiny")[1]["calculate_loss"]
    monkeypatch.setattr(ops, "dropout", at_one_step(ops.dropout, place=1))
    monkeypatch.setattr(intent_step, "sample_edges", at_one_step(intent_step.sample_edges, place=0))
    with default_dtype(torch.float64):
        ratios = excess(model, lambda: model.calculate_loss(batch))
    assert max(ratios.values()) < 1, ratios


def at_one_step(function, place):
    """The function with seed and step of the stream in its argument `place` set to 0."""

    def at_zero(*args, **kwargs):
        args = list(args)
        args[place] = args[place] * torch.tensor([0, 1]) % (1 << NoiseStreams.SITE_BITS)
        return function(*args, **kwargs)

    return at_zero


def test_evaluation_reads_all_edges():
    """Stock draws edges in evaluation, so that its scores depend on NumPy's random state."""
    case, pairs = conformance(), conformance().scored_pairs("tiny")
    stock, twin = (model.eval() for model in case.pair("tiny", node_dropout_rate=0.5))
    whole = case.build("KGIN", "tiny", node_dropout_rate=0.0).eval()
    with torch.no_grad():
        assert not torch.equal(stock.predict(pairs), stock.predict(pairs))
        assert distance(twin.predict(pairs), whole.predict(pairs)) < 1e-6


def test_evaluation_uses_the_weights_that_were_loaded_last():
    """Stock ranks with embeddings that it cached before the best weights were loaded."""
    case, pairs = conformance(), conformance().scored_pairs("tiny")
    stock, twin = (model.eval() for model in case.pair("tiny", node_dropout_rate=0.0))
    best = {name: value * 2 for name, value in stock.state_dict().items()}
    with torch.no_grad():
        before = [model.full_sort_predict(pairs) for model in (stock, twin)]
        for model in (stock, twin):
            model.load_state_dict(best)
            model.eval()
        after = [model.full_sort_predict(pairs) for model in (stock, twin)]
        expected = case.build("TinyKGIN", "tiny", compress_bits=32, node_dropout_rate=0.0)
        expected.load_state_dict(best)
        assert torch.equal(after[0], before[0]), "stock no longer keeps its cache: say so"
        assert torch.equal(after[1], expected.eval().full_sort_predict(pairs))
        assert not torch.equal(after[1], before[1])


def test_weights_that_change_without_a_change_of_mode_are_used():
    case, pairs = conformance(), conformance().scored_pairs("tiny")
    twin = case.build("TinyKGIN", "tiny").eval()
    before = twin.predict(pairs)
    with torch.no_grad():
        twin.user_embedding.weight.mul_(2)
    assert not torch.equal(twin.predict(pairs), before)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("num_factors", [1, 2, 5])
def test_independence_loss_is_stocks(measure, num_factors):
    stock = conformance().build("KGIN", "tiny", ind=measure, n_factors=num_factors)
    rows = torch.randn(num_factors, stock.n_relations, dtype=torch.float64, requires_grad=True)
    with default_dtype(torch.float64):
        expected = torch.as_tensor(stock.gcn.calculate_cor_loss(rows))
    ours = independence_loss(rows, measure, stock.temperature)
    torch.testing.assert_close(ours, expected.to(ours).view_as(ours))
    if expected.requires_grad:
        (wanted,) = torch.autograd.grad(expected.squeeze(), rows)
        torch.testing.assert_close(torch.autograd.grad(ours, rows)[0], wanted)


@pytest.mark.parametrize("frozen", ["user_embedding.weight", "gcn.disen_weight_att"])
def test_a_frozen_parameter_gets_no_gradient_and_changes_no_other(frozen):
    case = conformance()
    twin = case.build("TinyKGIN", "tiny", compress_bits=32)
    batch = case.data("tiny")[1]["calculate_loss"]
    gradients = []
    for trainable in (True, False):
        dict(twin.named_parameters())[frozen].requires_grad_(trainable)
        twin.streams.step = 0
        twin.zero_grad()
        twin.calculate_loss(batch).backward()
        gradients.append({n: p.grad for n, p in twin.named_parameters() if n != frozen})
    assert dict(twin.named_parameters())[frozen].grad is None
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_without_gradients_nothing_is_kept():
    case = conformance()
    twin = case.build("TinyKGIN", "tiny")
    batch = case.data("tiny")[1]["calculate_loss"]
    with saved_tensors(twin, batch) as saved, torch.no_grad():
        loss = twin.calculate_loss(batch)
    assert saved.num_bytes == 0 and not loss.requires_grad


def test_a_step_draws_nothing_from_numpy():
    case = conformance()
    twin = case.build("TinyKGIN", "tiny", node_dropout_rate=0.5, mess_dropout_rate=0.1)
    before = np.random.get_state()[1].copy()
    twin.calculate_loss(case.data("tiny")[1]["calculate_loss"]).backward()
    assert (np.random.get_state()[1] == before).all()


def test_the_loss_can_be_computed_again_for_backward():
    """Under torch.utils.checkpoint the same edges and dropout are drawn a second time."""
    case = conformance()
    twin = case.build("TinyKGIN", "tiny", mess_dropout_rate=0.2)
    users, items = torch.arange(1, 9), torch.arange(1, 20)
    gradients = []
    for wrap in (False, True):
        twin.zero_grad()
        rows = checkpoint(twin, users, items, use_reentrant=False) if wrap else twin(users, items)
        (rows[0].sum() + rows[1].square().sum()).backward()
        gradients.append({name: p.grad.clone() for name, p in twin.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize("kind", ["no tail is a head", "every edge is one pair", "one edge"])
def test_equals_stock_on_a_graph_of_another_kind(kind):
    case = conformance()
    stock, twin = case.pair("tiny", node_dropout_rate=0.0, context_hops=3)
    head, relation, tail = twin.graph.edges()
    if kind == "no tail is a head":
        chosen = ~torch.isin(tail, head[::3]) & torch.isin(head, head[::3])
        assert chosen.any()
    elif kind == "one edge":
        chosen = torch.arange(len(head)) == 5
    else:
        chosen = (head == head[0]) & (relation == relation[0])
    edges = head[chosen], relation[chosen], tail[chosen]
    sizes = twin.n_entities, twin.n_relations
    twin.graph = RelationalGraph(edges, twin.graph.interactions, *sizes)
    stock.gcn.edge_index, stock.gcn.edge_type = torch.stack([edges[0], edges[2]]), edges[1]
    for model in (stock, twin):
        model.double()
    case.convert(stock, torch.float64)
    batch = case.data("tiny")[1]["calculate_loss"]
    with default_dtype(torch.float64):
        case.compare_step(stock, twin, "calculate_loss", batch, 1e-10)
        case.compare_scores(stock, twin, "tiny", 1e-10)


def test_autocast_leaves_the_step_in_full_precision():
    case = conformance()
    twin = case.build("TinyKGIN", "tiny")
    batch = case.data("tiny")[1]["calculate_loss"]
    losses = []
    for enabled in (False, True):
        twin.streams.step = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(twin.calculate_loss(batch))
    losses[1].backward()
    assert losses[0].dtype == torch.float32 and torch.equal(*losses)


def test_places_that_are_left_get_no_noise():
    assert_places_left_draw_no_noise(conformance())
