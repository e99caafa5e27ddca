"""A pass of a twin takes RecBole's steps and reports RecBole's loss."""

from __future__ import annotations

import pytest
import torch
from recbole.trainer import Trainer

from helpers.identical import assert_identical
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer import step, trainer
from recbole_tinykg.trainer.step import LossSum


def fit(model, parameters):
    experiment = prepare(model, "tiny", config_dict=parameters)
    experiment.trainer.fit(experiment.train_data, saved=False)
    return experiment.trainer.train_loss_dict, experiment.model.state_dict()


def recboles_pass(stepper, train_data, epoch_idx, loss_func, show_progress):
    return Trainer._train_epoch(stepper, train_data, epoch_idx, loss_func, show_progress)


@pytest.mark.parametrize("model", ["TinyKGAT", "TinyKGCN", "TinyKGIN", "TinyCKE", "TinyMKR"])
@pytest.mark.parametrize("change", [{}, {"clip_grad_norm": {"max_norm": 0.01}, "enable_amp": True}])
def test_steps_and_losses_are_those_of_recboles_loop(model, change, tiny, monkeypatch):
    ours = fit(model, {**tiny, **change})
    monkeypatch.setattr(trainer, "train_pass", recboles_pass)
    assert_identical(ours, fit(model, {**tiny, **change}))


def test_nan_stops_training_before_its_gradients_on_a_cpu(tiny):
    experiment = prepare("TinyKGAT", "tiny", config_dict=tiny)
    with torch.no_grad():
        experiment.model.user_embedding.weight.fill_(torch.nan)
    items = experiment.model.entity_embedding.weight.clone()
    with pytest.raises(ValueError, match="Training loss is nan"):
        experiment.trainer.fit(experiment.train_data, saved=False)
    assert torch.equal(items, experiment.model.entity_embedding.weight)


def on_a_gpu(interval, monkeypatch):
    monkeypatch.setattr(step, "CHECK_INTERVAL", interval)
    return LossSum(checks_every_loss=False)


def take(losses, *values):
    for value in values:
        losses.add(value)
        losses.end_step()


def test_nan_on_a_gpu_is_noticed_within_the_interval_and_at_the_end(monkeypatch):
    losses = on_a_gpu(3, monkeypatch)
    take(losses, torch.tensor(torch.nan), torch.tensor(1.0))
    with pytest.raises(ValueError, match="Training loss is nan"):
        take(losses, torch.tensor(1.0))
    losses = on_a_gpu(3, monkeypatch)
    take(losses, (torch.tensor(1.0), torch.tensor(torch.nan)))
    with pytest.raises(ValueError, match="Training loss is nan"):
        losses.total()


def test_a_pass_after_one_with_nan_begins_anew(monkeypatch):
    losses = on_a_gpu(3, monkeypatch)
    take(losses, torch.tensor(torch.nan))
    losses.restart()
    assert losses.total() is None
    take(losses, torch.tensor(2.0))
    assert losses.total() == 2.0


@pytest.mark.parametrize("shape", [(), (1,)])
def test_sum_is_that_of_python_numbers(shape, monkeypatch):
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 1e3
    alone, parts = on_a_gpu(64, monkeypatch), on_a_gpu(64, monkeypatch)
    expected = 0.0
    for value in values:
        expected += value.item()
        assert torch.equal(alone.add(value.view(shape)), value.view(shape))
        assert torch.equal(parts.add((value.view(shape), value.view(shape))), 2 * value.view(shape))
        alone.end_step()
        parts.end_step()
    assert alone.total() == expected
    assert parts.total() == (expected, expected)


def test_pass_without_batches_has_no_loss():
    assert LossSum(checks_every_loss=True).total() is None
