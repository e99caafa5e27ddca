"""Sums over edges against the formula, one edge at a time."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.graph import paired_edges
from recbole_tinykg.graph.csr import row_places
from recbole_tinykg.graph.interactions import Interactions
from recbole_tinykg.graph.paired_edges import PairedEdges, RelationGradient

NUM_ROWS, NUM_COLS, NUM_RELATIONS, WIDTH = 11, 13, 4, 5


@pytest.fixture(params=[(8192, 4096), (6, 4), (1, 1)], ids=["one block", "blocks", "rows"])
def edges(request, monkeypatch):
    """Edges with duplicates, empty rows and rows longer than a block; the formula's arguments."""
    monkeypatch.setattr(paired_edges, "PAIR_BLOCK", request.param[0])
    monkeypatch.setattr(paired_edges, "PAIR_BLOCK_ROWS", request.param[1])
    generator = torch.Generator().manual_seed(3)

    def draw(high):
        return torch.randint(0, high, (80,), generator=generator)

    row, relation, col = draw(NUM_ROWS - 2), draw(NUM_RELATIONS), draw(NUM_COLS)
    row[row == 4] = 5
    return PairedEdges(row, relation, col, NUM_ROWS, NUM_RELATIONS), (row, relation, col)


def arguments(edges):
    generator = torch.Generator().manual_seed(4)
    dense = torch.randn(NUM_COLS, WIDTH, generator=generator, dtype=torch.float64)
    relations = torch.randn(NUM_RELATIONS, WIDTH, generator=generator, dtype=torch.float64)
    weights = torch.rand(80, generator=generator, dtype=torch.float64).round()
    return weights, dense, relations


def formula(triples, weights, dense, relations):
    row, relation, col = triples
    messages = weights[:, None] * relations[relation] * dense[col]
    return torch.zeros(NUM_ROWS, WIDTH, dtype=torch.float64).index_add_(0, row, messages)


def test_sums_are_those_of_the_formula(edges):
    edges, triples = edges
    weights, dense, relations = arguments(edges)
    out = torch.ones(NUM_ROWS, WIDTH, dtype=torch.float64)
    edges.add_sums_(out, weights[edges.order.long()], dense, relations)
    torch.testing.assert_close(out - 1, formula(triples, weights, dense, relations))


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize(
    "rows", [[7, -1, 0, 4, 10, 2, 5], [-1, -1], [4], [*range(NUM_ROWS)], [3, -1, -1, -1]]
)
def test_sums_of_some_rows(edges, rows, static_shapes):
    edges, triples = edges
    weights, dense, relations = arguments(edges)
    values, rows = weights[edges.order.long()], torch.tensor(rows)
    got = edges.sums_of(rows, values, dense, relations, static_shapes=static_shapes)
    expected = formula(triples, weights, dense, relations)[rows] * (rows >= 0)[:, None]
    torch.testing.assert_close(got, expected)


def test_there_is_room_for_the_rows_with_most_pairs(edges):
    """And no more: that many rows of the graph do have so many."""
    edges, _ = edges
    counts = edges.row_crow.diff().sort(descending=True).values.tolist()
    for num_rows in range(1, NUM_ROWS + 3):
        assert edges._most_pairs(num_rows) == sum(counts[:num_rows])


def test_a_graph_that_moves_is_divided_as_suits_the_device(edges, monkeypatch):
    """As on a GPU, with blocks of a quarter of the edges."""
    edges, triples = edges
    weights, dense, relations = arguments(edges)
    size = paired_edges._block_size
    cuda = torch.device("cuda")
    monkeypatch.setattr(paired_edges, "_block_size", lambda edges, _: size(edges, cuda))
    edges.double()
    widest = max(80 // paired_edges.DEVICE_BLOCKS, paired_edges.PAIR_BLOCK)
    assert edges.block_size.pairs == widest
    assert all(block.pairs.stop - block.pairs.start <= widest for block in edges.blocks)
    assert len(edges.blocks) <= 2 * paired_edges.DEVICE_BLOCKS
    out = torch.zeros(NUM_ROWS, WIDTH, dtype=torch.float64)
    edges.add_sums_(out, weights[edges.order.long()], dense, relations)
    torch.testing.assert_close(out, formula(triples, weights, dense, relations))
    rows = torch.tensor([3, -1, 5])
    got = edges.sums_of(rows, weights[edges.order.long()], dense, relations, static_shapes=True)
    torch.testing.assert_close(got, out[rows] * (rows >= 0)[:, None])


def test_absent_columns_add_nothing(edges):
    edges, triples = edges
    weights, dense, relations = arguments(edges)
    present = torch.tensor([12, 3, 5, 0])
    out = torch.zeros(NUM_ROWS, WIDTH, dtype=torch.float64)
    places = row_places(present, NUM_COLS)
    edges.add_sums_(out, weights[edges.order.long()], dense[present], relations, places)
    dense[places < 0] = 0
    torch.testing.assert_close(out, formula(triples, weights, dense, relations))


def test_gradient_of_the_relations(edges):
    """A sum of rows times `ego` has the products of both as its gradient."""
    edges, triples = edges
    weights, dense, relations = arguments(edges)
    ego = torch.randn(NUM_ROWS, WIDTH, dtype=torch.float64)
    relations.requires_grad_()
    (formula(triples, weights, dense, relations) * ego).sum().backward()
    out = torch.zeros(NUM_ROWS, WIDTH, dtype=torch.float64)
    gradient = RelationGradient(torch.zeros_like(relations), lambda rows: ego[rows])
    values = weights[edges.order.long()]
    edges.add_sums_(out, values, dense, relations.detach(), gradient=gradient)
    torch.testing.assert_close(gradient.out, relations.grad)


def test_degrees_count_the_edges_that_are_kept(edges):
    edges, triples = edges
    weights, _, _ = arguments(edges)
    expected = torch.zeros(NUM_ROWS, dtype=torch.float64).index_add_(0, triples[0], weights)
    assert torch.equal(edges.degrees(weights[edges.order.long()]), expected)


def test_means_of_users_and_their_transpose():
    user, item = torch.tensor([3, 1, 1, 3, 3, 1]), torch.tensor([0, 2, 1, 0, 4, 2])
    interactions = Interactions(user, item, (5, 6)).double()
    matrix = torch.zeros(5, 6, dtype=torch.float64)
    matrix[3, [0, 4]] = matrix[1, [1, 2]] = 0.5
    users, dense = torch.tensor([3, 0, 1]), torch.randn(6, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(
        interactions.means_of(users, interactions.values, dense), matrix[users] @ dense
    )
    gradient = torch.randn(3, WIDTH, dtype=torch.float64)
    out = torch.ones(6, WIDTH, dtype=torch.float64)
    interactions.add_transposed_(out, users, interactions.values_t, gradient)
    torch.testing.assert_close(out, 1 + matrix[users].t() @ gradient)


def test_dropout_of_interactions_is_the_same_both_ways():
    generator = torch.Generator().manual_seed(1)
    user, item = (torch.randint(0, 20, (200,), generator=generator) for _ in range(2))
    interactions = Interactions(user, item, (20, 20))
    stream = torch.tensor([5, 9])
    values = interactions.sample(stream, 0.4, transposed=False)
    transposed = interactions.sample(stream, 0.4, transposed=True)
    assert 0 < int((values == 0).sum()) < len(values)
    assert torch.equal(transposed, values[interactions.order_t.long()])
