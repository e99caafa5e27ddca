"""A plan says before training what the meter measures in training."""

from __future__ import annotations

import gc
import itertools
import json
import re

import numpy as np
import pytest
import torch
import yaml

from recbole_tinykg import plan, prepare
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.plan import device_memory, measurement
from recbole_tinykg.commands.plan.memory import Memory, PlannedModel, StepMemory
from recbole_tinykg.commands.plan.prediction import predict
from recbole_tinykg.commands.plan.tables import text_of
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.memory.simulation import SimulationError

TWINS = ["TinyKGAT", "TinyKGCN", "TinyKGNNLS", "TinyRippleNet", "TinyKGIN"]
GENERIC = ["TinyCKE", "TinyCFKG", "TinyKTUP", "TinyMKR"]
STOCK_NAMES = [name.removeprefix("Tiny") for name in (*TWINS, *GENERIC)]


def measured(model: str, parameters) -> Memory:
    gc.collect()  # or the profiler may see what other tests left go in the step
    return measurement._read_memory(measurement.take_steps(model, "tiny", parameters, {}))


def assert_close(prediction: Memory, real: Memory):
    """Within the promise of 10 %, and steps closer: small workspaces weigh more in tiny graphs."""
    assert prediction.phases.keys() == real.phases.keys()
    bounds = dict.fromkeys(real.quantities(), 0.03) | {"refresh peak": 0.1}
    assert prediction.quantities() == {
        name: pytest.approx(value, rel=bounds[name]) for name, value in real.quantities().items()
    }


@pytest.mark.parametrize(
    ("name", "bits"), [*itertools.product(TWINS, (32, 1)), *itertools.product(GENERIC, (2,))]
)
def test_twins_take_what_was_predicted(name, bits, tiny):
    prediction = predict(_built(name, tiny), bits)
    assert_close(prediction, measured(name, {**tiny, "compress_bits": bits}))


def _built(name, parameters):
    return prepare(name, "tiny", config_dict=parameters)


@pytest.mark.parametrize("name", STOCK_NAMES)
def test_stock_models_take_what_was_predicted(name, tiny):
    assert_close(predict(_built(name, tiny)), measured(name, tiny))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("TinyKGAT", {"layers": [8, 4], "aggregator_type": "graphsage"}),
        ("TinyKGCN", {"n_iter": 2, "train_batch_size": 20}),
        ("KGAT", {"learner": "adagrad", "clip_grad_norm": {"max_norm": 1.0}}),
        ("KGCN", {"detect_anomaly": False, "learner": "sgd"}),
        ("KGAT", {"compressed_saves": True, "compress_bits": 2}),
        ("BPR", {}),
    ],
)
def test_other_settings_are_predicted_too(name, changes, tiny):
    parameters = {**tiny, **changes}
    assert_close(predict(_built(name, parameters)), measured(name, parameters))


def test_planning_changes_nothing(tiny):
    experiment = _built("TinyKGAT", tiny)
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    numpy_state, torch_state = np.random.get_state()[1], torch.get_rng_state()
    first = predict(experiment, 2)
    assert predict(experiment, 2) == first
    plan("TinyKGAT", "tiny", bits=[2], config_dict=tiny)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    after = experiment.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in experiment.model.parameters())
    assert experiment.model.quantizer.bits == experiment.config["compress_bits"]


def test_a_training_goes_on_from_a_planned_model_as_if_there_had_been_no_plan(tiny):
    losses = []
    for planned in (False, True):
        experiment = _built("TinyKGCN", tiny)
        if planned:
            predict(experiment, 2)
        experiment.trainer.fit(experiment.train_data, saved=False)
        losses.append(experiment.trainer.train_loss_dict)
    assert losses[0] == losses[1]


def test_a_twin_is_planned_after_its_stock_model_at_each_number_of_bits(tiny):
    models = plan(["TinyKGAT", "KGAT"], "tiny", bits=[8, 2], config_dict=tiny).models
    assert [(m.model, m.bits) for m in models] == [("KGAT", None), ("TinyKGAT", 8), ("TinyKGAT", 2)]
    saved = [m.predicted.phases["rs"].saved_bytes for m in models]
    assert saved == sorted(saved, reverse=True)


def test_a_budget_is_planned_with_the_bits_that_it_chooses(tiny):
    given = {**tiny, "layers": [8, 4], "compress_budget": "8KiB"}
    result = plan("TinyKGAT", "tiny", bits=[2], measure=True, config_dict=given)
    _, uniform, chosen = result.models
    assert uniform.allocation is None and chosen.title == "TinyKGAT 8.00 KiB"
    bits = chosen.allocation.bits
    assert len(set(bits.values())) > 1
    assert chosen.predicted.phases["rs"].saved_bytes <= 8 * 1024
    assert chosen.measured.phases == chosen.predicted.phases
    assert result.to_dict()["models"][2]["allocation"]["map_bits"] == bits
    assert "layer1.messages" in text_of(result)


def test_an_impossible_budget_is_refused_with_the_smallest_that_works(tiny):
    with pytest.raises(ConfigurationError, match=r"must be at least (\d+) bytes") as error:
        plan("TinyKGAT", "tiny", bits=[2], config_dict={**tiny, "compress_budget": 9})
    smallest = int(re.search(r"at least (\d+)", str(error.value))[1])
    given = {**tiny, "compress_budget": smallest}
    chosen = plan("TinyKGAT", "tiny", bits=[2], config_dict=given).models[-1]
    assert set(chosen.allocation.bits.values()) == {1}


def test_a_step_that_depends_on_values_is_said(tiny, monkeypatch):
    from recbole_tinykg.model.kgcn import TinyKGCN

    loss = TinyKGCN.calculate_loss

    def reads(self, interaction):
        return loss(self, interaction) * (1 if self.user_embedding.weight.sum() > 0 else 2)

    monkeypatch.setattr(TinyKGCN, "calculate_loss", reads)
    model = plan("TinyKGCN", "tiny", bits=[2], config_dict=tiny).models[1]
    assert model.predicted is None and model.verdict == "unknown"
    assert "--measure runs the step instead" in model.problem
    with pytest.raises(SimulationError):
        predict(_built("TinyKGCN", tiny))


@pytest.mark.parametrize(
    ("room_bytes", "verdict"), [(100, "does not fit"), (160, "tight"), (200, "fits")]
)
def test_the_verdict_compares_what_is_needed_with_the_room(room_bytes, verdict):
    memory = Memory(50, 30, 20, {"rs": StepMemory(10, 55), "kg": StepMemory(0, 40)})
    assert memory.needed_bytes == 155
    assert PlannedModel("A", 2, "CPU", room_bytes, memory).verdict == verdict


def test_the_last_gradients_are_still_there_when_the_attention_is_refreshed():
    memory = Memory(50, 30, 20, {"rs": StepMemory(10, 55)}, refresh_peak_bytes=15)
    assert memory.needed_bytes == 100 + max(55, 15 + 50)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    unlimited = device_memory.available_bytes()
    monkeypatch.setattr(device_memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1700\n")
    (tmp_path / "memory.stat").write_text("anon 900\ninactive_file 700\nactive_file 100\n")
    assert device_memory.available_bytes() == 2000 < unlimited
    (tmp_path / "memory.max").write_text("max\n")
    assert device_memory.available_bytes() > 2000


def test_the_command_prints_tables_and_writes_json(tiny, capsys, tmp_path):
    parameters = ["--dataset=tiny", *(f"--{key}={value}" for key, value in tiny.items())]
    own = ["--model=KGAT", "--measure", f"--output={tmp_path / 'plan.json'}"]
    assert cli.main(["plan", *own, *parameters]) == 0
    out = capsys.readouterr().out
    for title in ("predicted", "measured", "deviation of the prediction"):
        assert re.search(rf"^{title} +KGAT$", out, flags=re.MULTILINE)
    rows = json.loads((tmp_path / "plan.json").read_text())["models"]
    assert [(row["bits"], row["verdict"]) for row in rows] == [(None, "fits")]
    assert all(abs(deviation) < 0.1 for row in rows for deviation in row["deviations"].values())
    assert not list(tmp_path.glob("*.tmp"))


def test_a_measurement_that_fails_is_reported_and_the_rest_goes_on(tiny, monkeypatch):
    monkeypatch.setattr(measurement.sys, "executable", "/bin/false")
    models = plan("TinyKGCN", "tiny", bits=[2], measure=True, config_dict=tiny).models
    assert all(m.predicted and m.measured is None for m in models)
    assert models[1].problem == (
        "TinyKGCN 2 bit could not be measured: the process ended with status 1"
    )


def test_a_measurement_starts_from_any_folder(tiny, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (model,) = plan("BPR", "tiny", measure=True, config_dict=tiny).models
    assert model.measured and not model.problem


def test_a_file_that_a_twin_trains_with_is_planned(tiny, tmp_path, capsys):
    file = tmp_path / "best.yaml"
    own = {**tiny, "layers": [8, 4], "compress_budget": "8KiB"}
    file.write_text(yaml.safe_dump(own))
    models = plan("TinyKGAT", "tiny", bits=2, config_file_list=[file]).models
    assert [model.title for model in models] == ["KGAT", "TinyKGAT 2 bit", "TinyKGAT 8.00 KiB"]
    argv = ["--model=TinyKGAT", "--dataset=tiny", "--bits=2", f"--config_files={file}"]
    assert cli.main(["plan", *argv]) == 0
    assert "TinyKGAT 8.00 KiB" in capsys.readouterr().out
    file.write_text(yaml.safe_dump({**tiny, "compress_bits": 4}))
    models = plan("TinyKGAT", "tiny", bits=2, config_file_list=[file]).models
    assert [model.title for model in models] == ["KGAT", "TinyKGAT 2 bit"]


@pytest.mark.parametrize("name", ["TinyKGCN", "BPR"])
def test_negatives_that_the_model_chooses_are_planned(name, tiny):
    negatives = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0}
    negatives |= {"dynamic": True, "candidate_num": 4}
    parameters = {**tiny, "train_neg_sample_args": negatives}
    experiment = _built(name, parameters)
    assert_close(predict(experiment), measured(name, parameters))
    loader = experiment.train_data
    assert getattr(loader, "general_dataloader", loader).model is None


@pytest.mark.parametrize("bits", [None, 3, [True], [2.0], "2"])
def test_what_is_no_number_of_bits_is_refused(bits, tiny):
    with pytest.raises(ConfigurationError, match="bits must be one or several of .*; got"):
        plan("TinyKGCN", "tiny", bits=bits, config_dict=tiny)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--bits=3"],
            "--bits must be one or several of 32, 8, 4, 2, 1, .*=8,2; got 3",
        ),
        (["--bits=two"], "--bits must be one or several of 32, 8, 4, 2, 1, .*; got 'two'"),
        (["--bits=2,2"], "bits must be different numbers; got"),
        (["--compress_bits=2"], "compress_bits must be given to plan as bits"),
        (["--measure=maybe"], "--measure must be True or False; got 'maybe'"),
        (["--output=nowhere/plan.json"], "--output must name a file in a folder that is there"),
        (["--model=Nope"], "model must be one of TinyKGAT"),
        (["--model_list=A,B", "--model=A"], "--model_list must come without --model; got both"),
        (["--dataset=nowhere"], "got nowhere, and .* does not exist"),
        (["--layers=64"], "layers must be .*; got 64"),
        (["--learning_rat=1"], r"did you mean learning_rate\?"),
        (["--budget=1"], "--budget is neither a flag of this command nor a parameter"),
    ],
)
def test_wrong_input_is_one_line(argv, message, capsys):
    assert cli.main(["plan", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(message, err), err
