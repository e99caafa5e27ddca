"""Steps that are replayed are the steps that would have been taken, without a GPU.

`RecordedGraphs` repeats the operators of a captured step on the same memory, so what would be
frozen in a CUDA graph is frozen here. The graphs themselves are tested in `test_cuda_training.py`.
"""

from __future__ import annotations

import logging

import pytest
import torch

from helpers.identical import assert_identical
from helpers.recorded_graphs import RecordedGraphs
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer import cuda_graphs, step
from recbole_tinykg.trainer.cuda_graphs import StepGraphs

TWINS = ["TinyKGAT", "TinyKGCN", "TinyKGNNLS", "TinyKGIN", "TinyRippleNet"]
MANY_STEPS = {"train_batch_size": 16, "epochs": 3}


def build(model, parameters, graphed=True, static=True):
    experiment = prepare(model, "tiny", config_dict=parameters)
    experiment.model.static_shapes = static
    trainer = experiment.trainer
    if not graphed:
        return experiment, None

    def state():
        yield from experiment.model.parameters()
        yield from experiment.model.buffers()
        for values in trainer.optimizer.state.values():
            yield from (value for value in values.values() if isinstance(value, torch.Tensor))
        for phase in trainer.step_graphs._phases.values():
            yield from (*phase.losses._sums, phase.losses._is_nan)

    graphs = RecordedGraphs(state)
    trainer.step_graphs = StepGraphs(trainer, graphs)
    return experiment, graphs


def fit(experiment):
    experiment.trainer.fit(experiment.train_data, saved=False)
    return (
        experiment.trainer.train_loss_dict,
        experiment.model.state_dict(),
        experiment.trainer.optimizer.state_dict(),
        experiment.model.streams.step,
    )


@pytest.fixture
def tiny(tiny):
    return {**tiny, **MANY_STEPS}


@pytest.mark.parametrize("model", TWINS)
@pytest.mark.parametrize(
    "change", [{}, {"clip_grad_norm": {"max_norm": 0.01}}, {"learner": "sgd"}, {"enable_amp": True}]
)
def test_replayed_steps_are_the_steps(model, change, tiny):
    experiment, graphs = build(model, {**tiny, **change})
    got = fit(experiment)
    assert graphs.num_captures >= 1
    assert graphs.num_replays > 5 * graphs.num_captures
    assert_identical(got, fit(build(model, {**tiny, **change}, graphed=False)[0]))


def test_first_steps_warm_up_and_other_sizes_run_alone(tiny, caplog):
    experiment, graphs = build("TinyKGAT", {**tiny, "epochs": 1, "train_batch_size": 17})
    loader = experiment.train_data
    with caplog.at_level(logging.INFO):
        fit(experiment)
    phases = {"recommendation": loader.general_dataloader, "knowledge graph": loader.kg_dataloader}
    full = [len(part) - (part.sample_size % part.batch_size > 0) for part in phases.values()]
    assert graphs.num_captures == 2
    assert graphs.num_warm_up == 2 * (cuda_graphs.WARM_UP_STEPS - 1)
    assert graphs.num_replays == sum(full) - 2 * cuda_graphs.WARM_UP_STEPS
    for name in phases:
        assert caplog.text.count(f"{name}: steps are one CUDA graph from here on") == 1
        assert caplog.text.count(f"{name}: a batch of another size") == 1


def test_bits_chosen_anew_are_captured_anew(tiny):
    def run(graphed):
        experiment, graphs = build("TinyKGAT", {**tiny, "epochs": 1}, graphed=graphed)
        fit(experiment)
        experiment.model.choose_bits(dict.fromkeys(experiment.model.map_sites, 8))
        experiment.trainer.start_epoch, experiment.trainer.epochs = 1, 3
        return fit(experiment), graphs

    got, graphs = run(graphed=True)
    assert_identical(got, run(graphed=False)[0])
    assert graphs.num_captures == 4, "twice for each phase"


def test_the_last_batch_of_a_short_pass_is_not_what_is_captured(tiny):
    """Of 192 interactions, three batches of 60 and one of 12."""
    experiment, graphs = build("TinyKGAT", {**tiny, "train_batch_size": 60, "epochs": 2})
    fit(experiment)
    assert graphs.num_captures == 2
    shapes = {
        len(column)
        for phase in experiment.trainer.step_graphs._phases.values()
        for column in phase._graph._inputs.values()
    }
    assert shapes == {60}


@pytest.mark.parametrize("change", ["learning rate", "clipping", "state"])
def test_other_settings_or_addresses_are_captured_anew(change, tiny):
    experiment, graphs = build("TinyKGAT", {**tiny, "epochs": 1})
    fit(experiment)
    trainer, before = experiment.trainer, graphs.num_captures
    if change == "learning rate":
        trainer.optimizer.param_groups[0]["lr"] = 0.5
    elif change == "clipping":
        trainer.clip_grad_norm = {"max_norm": 0.5}
    else:
        trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())
        experiment.model.graph.adjacency.values = experiment.model.graph.adjacency.values.clone()
    trainer.start_epoch, trainer.epochs = 1, 2
    fit(experiment)
    assert graphs.num_captures > before


def test_nan_in_a_replay_is_noticed(tiny, monkeypatch):
    monkeypatch.setattr(step, "CHECK_INTERVAL", 2)
    experiment, graphs = build("TinyKGAT", {**tiny, "epochs": 1})
    replay = cuda_graphs.StepGraph.replay

    def poisoned(graph, batch):
        if graphs.num_replays == 3:
            with torch.no_grad():
                experiment.model.user_embedding.weight.fill_(torch.nan)
        replay(graph, batch)

    monkeypatch.setattr(cuda_graphs.StepGraph, "replay", poisoned)
    with pytest.raises(ValueError, match="Training loss is nan"):
        fit(experiment)
    assert graphs.num_replays <= 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"clip_grad_norm": {"max_norm": 1.0, "error_if_nonfinite": True}},
            "clip_grad_norm with error_if_nonfinite reads",
        ),
        ({"learner": "adagrad"}, "Adagrad counts its steps on the host"),
    ],
)
def test_what_cannot_be_captured_runs_alone_and_the_log_says_why(change, reason, tiny, caplog):
    experiment, graphs = build("TinyKGAT", {**tiny, **change})
    with caplog.at_level(logging.INFO):
        got = fit(experiment)
    assert graphs.num_captures == graphs.num_replays == 0
    assert caplog.text.count(f"recommendation: steps are no CUDA graph: {reason}") == 1
    assert_identical(got, fit(build("TinyKGAT", {**tiny, **change}, graphed=False)[0]))


def test_a_gradient_scaler_runs_alone(tiny, caplog):
    experiment, graphs = build("TinyKGAT", tiny)
    experiment.trainer.enable_scaler = True  # RecBole switches it off without a GPU
    with caplog.at_level(logging.INFO):
        fit(experiment)
    assert graphs.num_captures == 0
    assert caplog.text.count("recommendation: steps are no CUDA graph: a gradient scaler") == 1


def test_a_model_with_shapes_by_data_runs_alone(tiny, caplog):
    experiment, graphs = build("TinyKGAT", tiny, static=False)
    with caplog.at_level(logging.INFO):
        fit(experiment)
    assert graphs.num_captures == 0
    assert "shapes in a step of TinyKGAT depend on the data" in caplog.text


def test_a_capture_that_fails_is_told_once_and_steps_go_on(tiny, caplog, monkeypatch):
    experiment, graphs = build("TinyKGAT", tiny)

    def refuse(function):
        graphs.num_captures += 1
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "capture", refuse)
    with caplog.at_level(logging.WARNING):
        got = fit(experiment)
    assert graphs.num_captures == 2, "once for each phase"
    assert caplog.text.count("recommendation: steps are no CUDA graph: capturing failed (oper") == 1
    assert_identical(got, fit(build("TinyKGAT", tiny, graphed=False)[0]))


def test_the_log_names_what_was_refused_and_not_the_end_of_the_capture(tiny, caplog, monkeypatch):
    experiment, graphs = build("TinyKGAT", {**tiny, "epochs": 1})

    def refuse(function):
        try:
            raise RuntimeError("")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(graphs, "capture", refuse)
    with caplog.at_level(logging.INFO):
        fit(experiment)
    assert caplog.text.count("recommendation: steps are no CUDA graph: capturing failed (Runt") == 1


def test_a_replay_changes_the_version_of_parameters(tiny):
    """What a model caches for evaluation is dropped when they change."""
    experiment, graphs = build("TinyKGAT", {**tiny, "epochs": 1})
    weight = experiment.model.entity_embedding.weight
    versions = []
    replay = cuda_graphs.StepGraph.replay

    def watched(graph, batch):
        before = weight._version
        replay(graph, batch)
        versions.append(weight._version > before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs.StepGraph, "replay", watched)
        fit(experiment)
    assert versions
    assert all(versions)


def test_off_without_a_gpu_and_by_its_key(tiny):
    for chosen in (True, False):
        experiment = prepare("TinyKGAT", "tiny", config_dict={**tiny, "cuda_graphs": chosen})
        assert experiment.trainer.step_graphs is None
