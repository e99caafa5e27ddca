"""The attention graph against dense matrices and loops."""

from __future__ import annotations

import pytest
import torch

from helpers.graphs import GraphDataset
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.graph import attention
from recbole_tinykg.graph.attention import AttentionGraph, segment_softmax_
from recbole_tinykg.graph.from_recbole import collaborative_edges
from recbole_tinykg.graph.triples import Triples
from recbole_tinykg.quantization import NoiseStreams


@pytest.fixture
def dataset():
    return GraphDataset()


@pytest.fixture
def graph(dataset):
    return AttentionGraph(collaborative_edges(dataset), (9, 30)).double()


def dense(graph):
    crow, col, values = graph.adjacency.to_csr()
    size = (graph.adjacency.num_nodes,) * 2
    return torch.sparse_csr_tensor(crow, col, values, size, check_invariants=True).to_dense()


def test_first_attention_averages_within_each_relation(dataset, graph):
    relation, (rows, cols) = dataset.edges
    expected = torch.zeros(39, 39, dtype=torch.float64)
    for kind in set(relation.tolist()):
        counts = torch.zeros(39, 39, dtype=torch.float64)
        for row, col in zip(rows[relation == kind], cols[relation == kind], strict=True):
            counts[row, col] += 1
        degrees = counts.sum(1, keepdim=True)
        expected += torch.where(degrees > 0, counts / degrees, 0.0)
    torch.testing.assert_close(dense(graph), expected, rtol=1e-6, atol=0)  # float32, as in RecBole


@pytest.mark.parametrize("edge_block", [8192, 7])
def test_refresh_is_the_softmax_of_summed_scores(dataset, graph, edge_block, monkeypatch):
    monkeypatch.setattr(attention, "EDGE_BLOCK", edge_block)
    generator = torch.Generator().manual_seed(0)
    shapes = ((9, 5), (30, 5), (6, 3), (6, 15))
    users, entities, relations, projections = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    nodes = torch.cat([users, entities])
    scores = torch.full((39, 39), -torch.inf, dtype=torch.float64)
    for kind, row, col in zip(dataset.edges[0], *dataset.edges[1], strict=True):
        matrix = projections[kind].view(5, 3)
        score = (nodes[col] @ matrix) @ torch.tanh(nodes[row] @ matrix + relations[kind])
        before = scores[row, col]
        scores[row, col] = score if before == -torch.inf else before + score
    expected = torch.softmax(scores, dim=1).nan_to_num(0.0)
    graph.refresh((users, entities), relations, projections)
    torch.testing.assert_close(dense(graph), expected)


def test_softmax_survives_large_scores(graph):
    scores = torch.randn_like(graph.adjacency.values) * 1000
    rows = torch.zeros(graph.adjacency.num_nodes, dtype=torch.float64)
    rows.index_add_(0, graph.adjacency.rows(), segment_softmax_(scores, graph.adjacency))
    sums = rows[graph.adjacency.message_rows]
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert rows.count_nonzero() == len(sums)


def test_a_graph_whose_keys_overflow_is_refused():
    edges = Triples(*(torch.tensor([number]) for number in (0, 2**20, 5)))
    with pytest.raises(ConfigurationError, match="relations < 2"):
        AttentionGraph(edges, (2**21, 2**21))


def test_an_edge_costs_twenty_bytes(graph, dataset):
    """A pair has column, row and two values in the matrix, an edge a slot."""
    per_pair, per_edge = 4 + 4 + 8 + 8, 4  # the fixture's values are float64
    tensors = dict(graph.named_buffers())
    per_node = {"node", "message_rows", "message_offset", "message_position"}
    kept = sum(t.nbytes for name, t in tensors.items() if name.split(".")[-1] not in per_node)
    pointers = sum(t.nbytes for name, t in tensors.items() if "crow" in name)
    num_pairs = len(graph.adjacency.values)
    assert kept - pointers == per_pair * num_pairs + per_edge * len(dataset.edges[0])


def test_graph_tensors_are_resident_but_not_in_the_state_dict(graph):
    assert not graph.state_dict()
    assert not list(graph.parameters())


def test_streams_of_a_run_never_repeat():
    streams = NoiseStreams(seed=-5, num_sites=7)
    drawn = torch.cat([streams.advance() for _ in range(100)])
    assert len(torch.unique(drawn, dim=0)) == 700
    assert torch.equal(streams.current(), drawn[-7:])
    resumed = NoiseStreams(seed=-5, num_sites=7)
    resumed.step = streams.step
    assert torch.equal(resumed.advance(), streams.advance())
