"""Evaluation of many users at once gives RecBole's metrics, bit for bit, ties included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector
from recbole.utils.case_study import full_sort_scores

from helpers.identical import assert_identical
from recbole_tinykg.data import full_sort, loaders
from recbole_tinykg.quick_start import experiment as experiment_module
from recbole_tinykg.quick_start import prepare

TWINS = ["TinyKGAT", "TinyKGCN", "TinyKGNNLS", "TinyKGIN", "TinyRippleNet", "TinyCKE", "TinyCFKG"]


def two(model, parameters, monkeypatch):
    """The same experiment with our evaluation and with RecBole's, which takes users one by one."""
    ours = prepare(model, "tiny", config_dict=parameters)
    monkeypatch.setattr(experiment_module, "data_preparation", loaders.recboles_data_preparation)
    theirs = prepare(model, "tiny", config_dict={**parameters, "eval_batch_size": 40})
    assert type(theirs.valid_data) is FullSortEvalDataLoader
    theirs.trainer.eval_collector = Collector(theirs.config)
    return ours, theirs


@pytest.mark.parametrize("model", TWINS)
def test_metrics_are_recboles(model, tiny, monkeypatch):
    ours, theirs = two(model, tiny, monkeypatch)
    for split in ("valid_data", "test_data"):
        results = [e.trainer.evaluate(getattr(e, split), False) for e in (ours, theirs)]
        assert_identical(dict(results[0]), dict(results[1]))


@pytest.mark.parametrize("metrics", [["Recall", "MRR", "MAP"], ["GAUC"], ["Recall", "GAUC"]])
def test_tied_scores_are_ranked_as_recbole_ranks_them(metrics, tiny, monkeypatch):
    tiny |= {
        "metrics": metrics,
        "valid_metric": f"{metrics[0]}{'' if 'GAUC' in metrics[0] else '@5'}",
    }
    ours, theirs = two("TinyKGAT", tiny, monkeypatch)
    for experiment in (ours, theirs):
        items = experiment.model.n_items
        experiment.model.full_sort_predict = lambda batch, n=items: (
            (batch["user_id"].unsqueeze(1) * torch.arange(n) % 3).float().view(-1)
        )
    results = [e.trainer.evaluate(e.test_data, False) for e in (ours, theirs)]
    assert_identical(dict(results[0]), dict(results[1]))


def test_batches_hold_recboles_users_and_pairs(tiny, monkeypatch):
    ours, theirs = two("TinyKGAT", tiny, monkeypatch)

    def pairs(data):
        known, held_out = set(), set()
        for users, history, rows, items in data:
            ids = users["user_id"]
            known |= set(zip(ids[history[0]].tolist(), history[1].tolist(), strict=True))
            held_out |= set(zip(ids[rows].tolist(), items.tolist(), strict=True))
        return known, held_out

    assert pairs(ours.valid_data) == pairs(theirs.valid_data)
    assert pairs(ours.test_data) == pairs(theirs.test_data)
    assert len(ours.test_data) == 1 < len(theirs.test_data)


def test_users_of_a_batch_are_bounded_by_their_scores(tiny, monkeypatch):
    monkeypatch.setattr(full_sort, "PAIRS_PER_BATCH", 3 * 41)
    experiment = prepare("TinyKGAT", "tiny", config_dict={**tiny, "eval_batch_size": 1})
    sizes = [len(users) for users, *_ in experiment.test_data]
    assert max(sizes) <= 3 * 41 // experiment.dataset.item_num
    assert sum(sizes) == len(experiment.test_data.uid_list)


def test_model_scored_pair_by_pair_keeps_recboles_number_of_users(tiny):
    experiment = prepare("TinyCFKG", "tiny", config_dict={**tiny, "eval_batch_size": 80})
    assert experiment.test_data.step == 80 // experiment.dataset.item_num


def test_stock_model_is_evaluated_by_recbole(tiny):
    experiment = prepare("KGAT", "tiny", config_dict=tiny)
    assert type(experiment.valid_data) is FullSortEvalDataLoader
    assert type(experiment.trainer.eval_collector) is Collector


def test_recboles_case_study_reads_our_loader(tiny, monkeypatch):
    ours, theirs = two("TinyKGAT", tiny, monkeypatch)
    users = np.array([2, 5, 3])
    scores = [full_sort_scores(users, e.model.eval(), e.test_data) for e in (ours, theirs)]
    assert_identical(*scores)
