"""Paths of `recommend` are those that an enumeration of all paths finds best."""

from __future__ import annotations

import functools

import pytest
import torch

from helpers.paths import EVERY_PATH, Names, is_close
from recbole_tinykg import load_data_and_model, recommend

CASES = [
    ("KGAT", {}),
    ("TinyKGAT", {}),
    ("TinyKGAT", {"kg_reverse_r": True, "layers": [8, 4]}),
    ("KGCN", {}),
    ("TinyKGCN", {"n_iter": 1}),
    ("TinyKGCN", {"n_iter": 2, "neighbor_sample_size": 3, "kg_reverse_r": True}),
    ("KGNNLS", {"n_iter": 2}),
    ("TinyKGNNLS", {"neighbor_sample_size": 6}),
    ("RippleNet", {}),
    ("TinyRippleNet", {}),
    ("TinyRippleNet", {"repeat_first_hop": False, "n_memory": 8, "n_hop": 3}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_paths_are_the_best_of_all_paths(name, settings, checkpoint_of, tiny_data_path):
    file = checkpoint_of(name, **settings)
    _, model, _, train_data, *_ = load_data_and_model(file)
    dataset = train_data._dataset
    names = Names(dataset, tiny_data_path)
    enumerate_paths = EVERY_PATH[name.removeprefix("Tiny")]

    @functools.cache
    @torch.no_grad()
    def every_path(user, item):
        return enumerate_paths(model, dataset, names, dataset.token2id("user_id", user), item)

    num_found = 0
    for num_paths, seen in ((1, "all"), (3, "none"), (10**6, "all")):
        for result in recommend(file, ["u3", "u17"], k=9, paths=num_paths, seen=seen):
            for own in result.items:
                expected = every_path(result.user, own.item)
                best = sorted(expected.values(), reverse=True)[:num_paths]
                assert len(own.paths) == len(best)
                assert len({str(path) for path in own.paths}) == len(best)
                for path, score in zip(own.paths, best, strict=True):
                    assert is_close(path.score, score)
                    assert is_close(path.score, expected[str(path)])
                num_found += len(best)
    assert num_found > 30


def test_kgats_attention_is_the_softmax_of_its_equations(checkpoint_of):
    """The weights that paths multiply, from the embeddings (KGAT, equations 4 and 5)."""
    _, model, _, train_data, *_ = load_data_and_model(checkpoint_of("TinyKGAT"))
    edges = train_data._dataset.ckg_graph(form="coo", value_field="relation_id")
    nodes = torch.cat([model.user_embedding.weight, model.entity_embedding.weight]).double()
    scores = torch.full((len(nodes),) * 2, -torch.inf, dtype=torch.float64)
    for head, relation, tail in zip(edges.row, edges.data, edges.col, strict=True):
        matrix = model.trans_w.weight[relation].double().view(8, 8)
        query = torch.tanh(nodes[head] @ matrix + model.relation_embedding.weight[relation])
        known = scores[head, tail]
        scores[head, tail] = (0 if known.isinf() else known) + (nodes[tail] @ matrix) @ query
    has_edge = ~scores.isinf().all(1)
    crow, col, values = model.attention
    dense = torch.sparse_csr_tensor(crow, col, values, scores.shape).to_dense().double()
    expected = torch.softmax(scores[has_edge], dim=1).detach()
    torch.testing.assert_close(dense[has_edge], expected, rtol=1e-5, atol=1e-6)
