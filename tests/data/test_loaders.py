"""The twins' loaders give RecBole's batches to the bit, and leave RecBole's random state behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.dataloader import KnowledgeBasedDataLoader
from recbole.utils import KGDataLoaderState

from helpers.identical import assert_identical
from recbole_tinykg.checkpoint import random_state
from recbole_tinykg.data import loaders
from recbole_tinykg.data.negatives import Pairs
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.quick_start import experiment as experiment_module
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer.loop import _READS_NO_TRIPLES

PAIRWISE, POINTWISE = "TinyKGAT", "TinyKGCN"


def two(model, parameters, monkeypatch):
    """The same experiment with our loaders and with RecBole's."""
    ours = prepare(model, "tiny", config_dict=parameters)
    monkeypatch.setattr(experiment_module, "data_preparation", loaders.recboles_data_preparation)
    theirs = prepare(model, "tiny", config_dict=parameters)
    assert type(theirs.train_data) is KnowledgeBasedDataLoader
    return ours, theirs


def epochs(experiment, state, num_batches=None):
    """Batches of two epochs, and the random states after them."""
    np.random.seed(5)
    data = experiment.train_data
    data.set_mode(state)
    batches = [
        {"batch": number, **batch.interaction}
        for _ in range(2)
        for number, batch in zip(range(num_batches or 10**9), data, strict=False)
    ]
    generators = {k: g.get_state() for k, g in random_state.generators(train=data).items()}
    return {"batches": batches, "after": random_state.capture(), "generators": generators}


@pytest.mark.parametrize("state", list(KGDataLoaderState))
@pytest.mark.parametrize("model", [PAIRWISE, POINTWISE])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train_neg_sample_args": {"sample_num": 3}},
        {"train_neg_sample_args": {"distribution": "popularity"}},
        {"train_batch_size": 48},
    ],
    ids=["default", "sample_num", "popularity", "batch size"],
)
def test_batches_and_random_state_are_recboles(model, state, change, tiny, monkeypatch):
    change = {
        key: {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, **value}
        if isinstance(value, dict)
        else value
        for key, value in change.items()
    }
    ours, theirs = two(model, {**tiny, **change}, monkeypatch)
    assert type(ours.train_data) is loaders.KnowledgeLoader
    assert_identical(epochs(ours, state), epochs(theirs, state))
    assert len(ours.train_data) == len(theirs.train_data)


def test_epoch_that_is_cut_short_leaves_recboles_random_state(tiny, monkeypatch):
    ours, theirs = two(POINTWISE, tiny, monkeypatch)
    for state in KGDataLoaderState:
        assert_identical(epochs(ours, state, 2), epochs(theirs, state, 2))


def test_negatives_that_the_model_chooses_are_recboles(tiny, monkeypatch):
    dynamic = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 3}
    ours, theirs = two(PAIRWISE, {**tiny, "train_neg_sample_args": dynamic}, monkeypatch)
    for experiment in (ours, theirs):
        experiment.train_data.get_model(experiment.model)
    state = KGDataLoaderState.RS
    assert_identical(epochs(ours, state), epochs(theirs, state))


@pytest.mark.parametrize(
    ("model", "change"),
    [("KGAT", {}), ("TinyKGAT", {"repeatable": True}), ("TinyKGAT", {"worker": 1})],
)
def test_loaders_that_are_left_to_recbole(model, change, tiny):
    experiment = prepare(model, "tiny", config_dict={**tiny, **change})
    assert type(experiment.train_data) is KnowledgeBasedDataLoader


def test_loader_keeps_no_list_of_rows(tiny):
    data = prepare(PAIRWISE, "tiny", config_dict=tiny).train_data
    for loader in (data.general_dataloader, data.kg_dataloader):
        assert isinstance(vars(loader)["dataset"], range)
        assert isinstance(loader.sampler.data_source, range)


def test_pairs_are_the_set_they_were_made_of():
    draw = np.random.default_rng(0)
    keys, values = draw.integers(0, 9, 60), draw.integers(0, 13, 60)
    pairs = Pairs(keys, values, 9, 13)
    expected = set(zip(keys.tolist(), values.tolist(), strict=True))
    assert len(pairs) == len(expected)
    grid = np.stack(np.meshgrid(np.arange(9), np.arange(13), indexing="ij"), -1).reshape(-1, 2)
    found = pairs.contains(grid[:, 0], grid[:, 1])
    assert {tuple(pair) for pair in grid[found].tolist()} == expected
    assert pairs.counts().tolist() == [sum(k == key for k, _ in expected) for key in range(9)]
    assert pairs[3] == {value for key, value in expected if key == 3}
    some = Pairs(keys[:20], values[:20], 9, 13)
    left = expected - set(zip(keys[:20].tolist(), values[:20].tolist(), strict=True))
    rows, kept = pairs.without(some).rows(np.arange(9))
    assert set(zip(rows.tolist(), kept.tolist(), strict=True)) == left


@pytest.mark.parametrize("key", [-1, 24 + 1])
def test_key_that_does_not_exist_is_refused(key, tiny):
    sampler = prepare(PAIRWISE, "tiny", config_dict=tiny).train_data.general_dataloader._sampler
    with pytest.raises(ValueError, match=f"user_id \\[{key}\\] not exist"):
        sampler.sample_by_user_ids(np.array([1, key]), np.array([1, 1]), 1)


def test_user_who_knows_every_item_is_refused(tiny, tiny_data_path, tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    for suffix in ("inter", "kg", "link"):
        text = (tiny_data_path / "tiny" / f"tiny.{suffix}").read_text(encoding="utf-8")
        if suffix == "inter":
            text += "".join(f"u0\ti{item}\t5\t{10**6 + item}\n" for item in range(40))
        (folder / f"full.{suffix}").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="dataset must leave every user items .* got 1 "):
        prepare(PAIRWISE, "full", config_dict={**tiny, "data_path": str(tmp_path)})


class Recording:
    """A batch that knows which of its columns were read."""

    def __init__(self, batch):
        self.batch, self.read = batch, set()

    def __getitem__(self, name):
        self.read.add(name)
        return self.batch[name]


@pytest.mark.parametrize("model", sorted(_READS_NO_TRIPLES))
def test_models_said_to_read_no_triples_read_none(model, tiny):
    experiment = prepare(model, "tiny", config_dict=tiny)
    experiment.train_data.set_mode(KGDataLoaderState.RSKG)
    batch = Recording(next(iter(experiment.train_data)))
    experiment.model.calculate_loss(batch)
    assert batch.read
    assert not batch.read & {"head_id", "relation_id", "tail_id", "neg_tail_id"}


@pytest.mark.parametrize("model", ["TinyKGCN", "KGCN"])
def test_skipping_unread_triples_draws_none_of_them(model, tiny):
    experiment = prepare(model, "tiny", config_dict={**tiny, "skip_unread_kg_batches": True})
    calculate_loss, columns = experiment.model.calculate_loss, []
    experiment.model.calculate_loss = lambda b: columns.append(set(b.columns)) or calculate_loss(b)
    drawn = experiment.train_data.kg_dataloader.generator.get_state()
    experiment.trainer.fit(experiment.train_data, saved=False)
    assert torch.equal(drawn, experiment.train_data.kg_dataloader.generator.get_state())
    assert columns
    assert not set.union(*columns) & {"head_id", "tail_id"}


@pytest.mark.parametrize("model", ["TinyCKE", "CFKG"])
def test_triples_that_are_read_are_not_skipped(model, tiny):
    weights = []
    for skips in (True, False):
        parameters = {**tiny, "skip_unread_kg_batches": skips}
        experiment = prepare(model, "tiny", config_dict=parameters)
        experiment.trainer.fit(experiment.train_data, saved=False)
        weights.append(experiment.model.state_dict())
    assert_identical(*weights)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_bad_value_of_the_option_is_refused(value, tiny):
    with pytest.raises(ConfigurationError, match="skip_unread_kg_batches must be one of"):
        prepare(POINTWISE, "tiny", config_dict={**tiny, "skip_unread_kg_batches": value})
