"""The trainer is the stock model's, and what it adds leaves no trace in the numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import recbole.trainer
import torch
from recbole.utils import init_seed

from recbole_tinykg.checkpoint import checkpoint
from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.memory import step_meter
from recbole_tinykg.memory.meter import peak_bytes
from recbole_tinykg.model import get_model
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer import TinyTrainer, trainer_class


def fit(model, parameters, **arguments):
    experiment = prepare(model, "tiny", config_dict=parameters)
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, **arguments)
    return experiment


def parameters_of(experiment):
    return {name: value.clone() for name, value in experiment.model.state_dict().items()}


def assert_equal_parameters(left, right):
    for name, value in parameters_of(left).items():
        assert torch.equal(value, parameters_of(right)[name]), name


@pytest.mark.parametrize(
    ("model", "stock_trainer"),
    [
        ("TinyKGAT", "KGATTrainer"),
        ("KGAT", "KGATTrainer"),
        ("MKR", "MKRTrainer"),
        ("KGCN", "KGTrainer"),
    ],
)
def test_trainer_is_stocks_with_ours_underneath(model, stock_trainer):
    bases = trainer_class(get_model(model)).__mro__
    stock_class = getattr(recbole.trainer, stock_trainer)
    assert (
        bases.index(stock_class) < bases.index(TinyTrainer) < bases.index(recbole.trainer.Trainer)
    )


def test_nothing_of_ours_stands_between_the_trainer_and_recboles_loop():
    assert TinyTrainer.__bases__ == (recbole.trainer.Trainer,)


def test_model_with_a_loop_of_its_own_is_refused():
    with pytest.raises(ConfigurationError, match="got NCL, which has NCLTrainer.fit"):
        trainer_class(get_model("NCL"))


@pytest.mark.parametrize("model", ["KGAT", "KGCN", "BPR"])
def test_stock_model_trains_to_the_bits_of_recboles_own_trainer(model, tiny):
    ours = fit(model, tiny, saved=False)
    theirs = prepare(model, "tiny", config_dict=tiny)
    stock_trainer = next(
        base for base in type(ours.trainer).__mro__ if base.__module__ == "recbole.trainer.trainer"
    )
    trainer = stock_trainer(theirs.config, theirs.model)
    trainer.fit(theirs.train_data, theirs.valid_data, saved=False)
    trainer.tensorboard.close()  # its thread writes to a folder that ends with the test
    assert_equal_parameters(ours, theirs)


def test_measuring_does_not_change_a_twins_training(tiny, monkeypatch):
    tiny |= {"mess_dropout": 0.2}
    measured = fit("TinyKGAT", tiny, saved=False)
    monkeypatch.setattr(step_meter.StepMeter, "_call", lambda meter, batch: meter._loss_func(batch))
    unmeasured = fit("TinyKGAT", tiny, saved=False)
    assert measured.trainer.memory().keys() > unmeasured.trainer.memory().keys()
    assert_equal_parameters(measured, unmeasured)


def test_one_step_of_each_phase_is_measured(tiny, monkeypatch):
    regions = []
    monkeypatch.setattr(
        step_meter, "peak_bytes", lambda device: regions.append(1) or peak_bytes(device)
    )
    fit("TinyKGAT", {**tiny, "epochs": 3}, saved=False)
    assert len(regions) == 2


def test_memory_of_a_twin(tiny):
    tiny |= {"embedding_size": 64, "layers": [64, 32]}
    trainer = fit("TinyKGAT", tiny, saved=False).trainer
    memory = trainer.memory()
    assert list(memory) == ["rs", "kg", "parameter_bytes", "graph_bytes", "optimizer_bytes"]
    rs = memory["rs"]
    assert 0 < rs["saved_activation_bytes"] < rs["float32_saved_activation_bytes"] / 3
    assert rs["peak_bytes"] > rs["saved_activation_bytes"]
    parameters = sum(p.numel() * 4 for p in trainer.model.parameters())
    assert memory["parameter_bytes"] == parameters
    assert memory["optimizer_bytes"] == 2 * parameters + 4 * len(list(trainer.model.parameters()))
    assert memory["graph_bytes"] == sum(b.nbytes for b in trainer.model.buffers())


def test_memory_of_a_stock_model_is_its_own_float32_baseline(tiny):
    memory = fit("KGAT", tiny, saved=False).trainer.memory()
    for phase in ("rs", "kg"):
        saved = memory[phase]["saved_activation_bytes"]
        assert memory[phase]["float32_saved_activation_bytes"] == saved > 0


def test_memory_before_training_knows_what_is_resident(tiny):
    memory = prepare("TinyKGAT", "tiny", config_dict=tiny).trainer.memory()
    assert list(memory) == ["parameter_bytes", "graph_bytes", "optimizer_bytes"]
    assert memory["optimizer_bytes"] == 0


def test_epoch_seconds_add_up(tiny):
    epochs = fit("KGAT", tiny, saved=False).trainer.epoch_seconds
    assert len(epochs) == tiny["epochs"]
    for seconds in epochs:
        assert list(seconds) == ["rs", "kg", "refresh", "total"]
        assert min(seconds.values()) > 0
        assert sum(seconds.values()) == pytest.approx(2 * seconds["total"])


def test_model_that_alternates_epochs_has_one_phase_in_each(tiny):
    parameters = {**tiny, "train_rec_step": 1, "train_kg_step": 1}
    trainer = fit("KTUP", parameters, saved=False).trainer
    assert [(bool(s["rs"]), bool(s["kg"])) for s in trainer.epoch_seconds] == [
        (True, False),
        (False, True),
    ]
    assert {"rs", "kg"} < trainer.memory().keys()


def test_attention_is_refreshed_in_every_epoch(tiny):
    experiment = prepare("TinyKGAT", "tiny", config_dict=tiny)
    refresh, calls = experiment.model.update_attentive_A, []
    experiment.model.update_attentive_A = lambda: calls.append(refresh())
    experiment.trainer.fit(experiment.train_data, saved=False)
    assert len(calls) == tiny["epochs"]


def test_runs_in_one_folder_keep_apart(tiny):
    runs = [fit("TinyKGAT", {**tiny, "epochs": 1}) for _ in range(2)]
    names = {experiment.config["run_name"] for experiment in runs}
    assert len(names) == 2
    assert {path.name for path in Path("saved").iterdir()} == {
        f"{name}{end}.pth" for name in names for end in ("", "-last")
    }
    assert {path.name for path in Path("log_tensorboard").iterdir()} == names


def test_evaluation_uses_the_best_epoch_and_not_the_last(tiny):
    experiment = prepare("TinyKGAT", "tiny", config_dict={**tiny, "learning_rate": 0.05})
    scores, best = iter([0.5, 0.4]), {}
    evaluate = experiment.trainer._valid_epoch

    def scored(*args, **kwargs):
        _, result = evaluate(*args, **kwargs)
        best.setdefault("weights", parameters_of(experiment))
        return next(scores), result

    experiment.trainer._valid_epoch = scored
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    last = parameters_of(experiment)
    experiment.trainer.evaluate(experiment.test_data)
    for name, value in parameters_of(experiment).items():
        assert torch.equal(value, best["weights"][name])
    assert not torch.equal(last["user_embedding.weight"], best["weights"]["user_embedding.weight"])


def test_best_checkpoint_knows_its_own_result(tiny):
    experiment = fit("TinyKGAT", {**tiny, "epochs": 1})
    state = checkpoint.load(experiment.trainer.saved_model_file)
    assert state["best_valid_score"] == state["best_valid_result"]["mrr@5"]
    assert state["best_valid_result"] == pytest.approx(dict(experiment.trainer.best_valid_result))


def test_checkpoint_holds_tensors_and_plain_values_only(tiny):
    experiment = fit("TinyKGAT", {**tiny, "epochs": 1})
    state = torch.load(experiment.trainer.saved_model_file, weights_only=True)
    kinds = set()

    def look(value):
        kinds.add(type(value))
        if isinstance(value, dict):
            look(list(value) + list(value.values()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                look(item)

    look(state)
    assert kinds <= {dict, list, tuple, str, int, float, bool, type(None), torch.Tensor}


MODES = [("KGAT", {}, True), ("KGAT", {"detect_anomaly": False}, False), ("TinyKGAT", {}, False)]


@pytest.mark.parametrize(("model", "change", "detects"), MODES)
@pytest.mark.parametrize("outside", [True, False])
def test_anomaly_mode_is_that_of_the_model_and_only_during_fit(
    model, change, detects, outside, tiny
):
    experiment = prepare(model, "tiny", config_dict={**tiny, "epochs": 1, **change})
    calculate_loss, seen = experiment.model.calculate_loss, set()

    def watched(interaction):
        seen.add(torch.is_anomaly_enabled())
        return calculate_loss(interaction)

    experiment.model.calculate_loss = watched
    with torch.autograd.set_detect_anomaly(outside):
        experiment.trainer.fit(experiment.train_data, saved=False)
        assert torch.is_anomaly_enabled() == outside
    assert seen == {detects}


def test_failed_training_leaves_no_mode_no_profiler_and_no_hook(tiny):
    experiment = prepare("KGAT", "tiny", config_dict=tiny)
    with torch.no_grad():
        experiment.model.user_embedding.weight.fill_(np.nan)
    with pytest.raises(ValueError, match="Training loss is nan"):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    assert not torch.is_anomaly_enabled()
    assert not torch.autograd._profiler_enabled()
    assert not experiment.trainer.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize(("model", "fused"), [("TinyKGAT", True), ("KGAT", None)])
@pytest.mark.parametrize("learner", ["adam", "adamw"])
def test_twins_get_fused_adam_and_stock_models_what_recbole_gives(model, fused, learner, tiny):
    parameters = {**tiny, "learner": learner, "weight_decay": 0.01, "learning_rate": 0.5}
    optimizer = prepare(model, "tiny", config_dict=parameters).trainer.optimizer
    assert type(optimizer) is {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[learner]
    (group,) = optimizer.param_groups
    assert (group["fused"], group["lr"], group["weight_decay"]) == (fused, 0.5, 0.01)


def test_other_learners_are_recboles(tiny):
    optimizer = prepare(
        "TinyKGAT", "tiny", config_dict={**tiny, "learner": "sgd"}
    ).trainer.optimizer
    assert type(optimizer) is torch.optim.SGD


def test_twin_trains_under_automatic_mixed_precision(tiny):
    experiment = fit("TinyKGAT", {**tiny, "enable_amp": True, "epochs": 1})
    before = prepare("TinyKGAT", "tiny", config_dict=tiny)
    assert not torch.equal(
        experiment.model.user_embedding.weight, before.model.user_embedding.weight
    )
    assert all(value.isfinite().all() for value in experiment.model.state_dict().values())


def test_callback_gets_every_evaluation_after_its_checkpoint(tiny):
    seen = []

    def callback(epoch, score):
        (last,) = Path("saved").glob("*-last.pth")
        seen.append((epoch, checkpoint.load(last)["epoch"]))

    fit("TinyKGAT", tiny, callback_fn=callback)
    assert seen == [(0, 0), (1, 1)]


def test_folder_that_takes_no_checkpoints_is_noticed_before_training(tiny):
    Path("occupied").touch()
    experiment = prepare(
        "TinyKGAT", "tiny", config_dict={**tiny, "checkpoint_dir": "occupied/here"}
    )
    with pytest.raises(CheckpointError, match="occupied/here/.* cannot be written: "):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    assert experiment.trainer.epoch_seconds == []


def test_recboles_own_config_without_a_run_name_gets_one(tiny):
    experiment = prepare("KGAT", "tiny", config_dict=tiny)
    del experiment.config.final_config_dict["run_name"]
    init_seed(1, True)
    trainers = [type(experiment.trainer)(experiment.config, experiment.model) for _ in range(2)]
    names = {os.path.basename(trainer.saved_model_file) for trainer in trainers}
    assert len(names) == 2
    assert all(name.startswith("KGAT-") for name in names)


def test_file_that_the_user_chose_is_written(tiny):
    experiment = prepare("TinyKGAT", "tiny", config_dict=tiny)
    experiment.trainer.saved_model_file = "chosen/model.pth"
    for _ in range(2):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
        assert checkpoint.load("chosen/model-last.pth")["epoch"] == 1
        Path("chosen/model-last.pth").unlink()
    assert not Path("saved").exists()
