"""Synthetic data: exact sizes, heavy tails, and the same data set from files and from arrays."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from benchmarks.synthetic_data.array_dataset import ArrayDataset, build_model
from benchmarks.synthetic_data.synthetic import (
    SIZES,
    Size,
    interactions_and_triples,
    write_atomic_files,
)
from recbole_tinykg.config import Config
from recbole_tinykg.data.atomic_files import create_dataset

SMALL = Size(users=60, items=80, interactions=900, entities=120, relations=5, triples=1500)


@pytest.fixture(scope="module", params=["ml-100k", "small, twice"])
def data(request):
    if request.param == "ml-100k":
        return interactions_and_triples("ml-100k")
    return interactions_and_triples(SMALL, scale=2)


def test_sizes_are_exact(data):
    size = data.size
    assert len(set(zip(data.user.tolist(), data.item.tolist(), strict=True))) == size.interactions
    triples = zip(data.head.tolist(), data.relation.tolist(), data.tail.tolist(), strict=True)
    assert len(set(triples)) == size.triples
    assert not (data.head == data.tail).any()


def test_everything_occurs(data):
    size, ends = data.size, np.concatenate([data.head, data.tail])
    for column, count in (
        (data.user, size.users),
        (data.item, size.items),
        (data.relation, size.relations),
        (ends, size.items + size.entities),
    ):
        assert np.array_equal(np.unique(column), np.arange(count))


def test_scale_multiplies_all_but_the_relations():
    assert SMALL.times(3) == Size(180, 240, 2700, 360, 5, 4500)
    assert interactions_and_triples(SMALL, scale=3).size == SMALL.times(3)


def test_a_seed_is_a_data_set():
    first, again, other = (interactions_and_triples(SMALL, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert not np.array_equal(first.tail, other.tail)


def test_a_tenth_of_the_nodes_has_about_half_of_the_edges():
    data = interactions_and_triples("yelp2018")
    for column in (data.user, data.item, data.head, data.tail):
        degrees = np.sort(np.bincount(column))[::-1]
        assert 0.4 < degrees[: len(degrees) // 10].sum() / len(column) < 0.7
        assert degrees[0] > 20 * degrees.mean()


def test_published_sizes():
    nodes = {name: size.users + size.all_entities for name, size in SIZES.items()}
    assert nodes["amazon-book"] == 184_166
    assert nodes["ml-100k"] + 2 == 944 + 34_629 + 84  # RecBole's, were all items linked


@pytest.mark.parametrize(
    "change", [{"interactions": 4000}, {"interactions": 100}, {"triples": 300}, {"relations": 0}]
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match="must"):
        interactions_and_triples(Size(**{**vars(SMALL), **change}))


def test_unknown_names_and_scales_are_refused():
    with pytest.raises(ValueError, match="amazon-book"):
        interactions_and_triples("amazon")
    with pytest.raises(ValueError, match="scale"):
        interactions_and_triples(SMALL, scale=0)


@pytest.fixture(scope="module", params=[False, True], ids=["", "reverse relations"])
def both(request, tmp_path_factory):
    """RecBole's data set of the files, and ours of the arrays."""
    data, folder = interactions_and_triples(SMALL), tmp_path_factory.mktemp("synthetic")
    write_atomic_files(data, folder, "small")
    given = {
        "data_path": str(folder),
        "gpu_id": "",
        "state": "ERROR",
        "kg_reverse_r": request.param,
    }
    config = Config("TinyKGAT", "small", config_dict=given)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A value is trying", module=r"recbole\.")
        loaded = create_dataset(config)
    loaded._change_feat_format()  # as before training
    return loaded, ArrayDataset(data, kg_reverse_r=request.param)


def test_arrays_are_the_loaded_data_set(both):
    loaded, arrays = both
    for name in ("user_num", "item_num", "entity_num", "relation_num", "uid_field", "iid_field"):
        assert getattr(loaded, name) == getattr(arrays, name), name
    for field in ("user_id", "item_id", "entity_id", "relation_id", "head_id", "tail_id"):
        assert loaded.num(field) == arrays.num(field)
    for name in ("head_entities", "relations", "tail_entities"):
        assert np.array_equal(getattr(loaded, name), getattr(arrays, name))
    for field in ("user_id", "item_id"):
        assert torch.equal(loaded.inter_feat[field], arrays.inter_feat[field])


@pytest.mark.parametrize("form", ["coo", "csr"])
@pytest.mark.parametrize("value_field", [None, "relation_id"])
@pytest.mark.parametrize("graph", ["kg_graph", "ckg_graph", "inter_matrix"])
def test_graphs_are_those_of_the_loaded_data_set(both, graph, form, value_field):
    if graph == "inter_matrix":
        value_field = None
    ours, theirs = (getattr(d, graph)(form=form, value_field=value_field).tocoo() for d in both)
    assert ours.shape == theirs.shape
    for name in ("row", "col", "data"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("stock_name", ["KGAT", "KGCN", "KGNNLS", "KGIN", "RippleNet"])
def test_stock_models_and_twins_take_arrays(both, stock_name):
    arrays = both[1]
    given = {"embedding_size": 8, "mess_dropout": 0.0, "node_dropout_rate": 0.0}
    losses = []
    for name in (stock_name, f"Tiny{stock_name}"):
        model = build_model(name, arrays, **given, mess_dropout_rate=0.0)
        batch = arrays.labelled(64, 1) if stock_name == "RippleNet" else arrays.pairs(64, 1)
        loss = model.calculate_loss(batch)
        losses.append((sum(loss) if isinstance(loss, tuple) else loss).sum())
        if stock_name == "KGAT":
            losses[-1] = losses[-1] + model.calculate_kg_loss(arrays.triples(64, 2)).sum()
        losses[-1].backward()
    if stock_name == "KGAT":  # the others sample neighbours, ripples or edges of their own
        torch.testing.assert_close(losses[1], losses[0])


def test_an_existing_data_set_is_kept(tmp_path):
    data = interactions_and_triples(SMALL)
    target = write_atomic_files(data, tmp_path, "small")
    with pytest.raises(FileExistsError, match="remove"):
        write_atomic_files(data, tmp_path, "small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]
    names = [f"small.{suffix}" for suffix in ("inter", "kg", "link")]
    assert sorted(path.name for path in target.iterdir()) == names
