"""The entry points draw what RecBole draws, return what it returns, and write what they promise."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.datasets import TINY_RUN
from helpers.stock import build_stock
from recbole_tinykg import load_data_and_model, prepare, run_recbole_tinykg
from recbole_tinykg.errors import (
    CheckpointError,
    ConfigurationError,
    NativeLibraryError,
    UserError,
)
from recbole_tinykg.ops import registration
from recbole_tinykg.quick_start.results import write_result

METRICS = {"recall@5", "mrr@5", "ndcg@5", "hit@5", "precision@5"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data_path):
    """One finished run of TinyKGAT: parameters, result, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("trained")
    parameters = {
        **TINY_RUN,
        "data_path": str(tiny_data_path),
        "checkpoint_dir": str(folder / "saved"),
        "epochs": 3,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run_recbole_tinykg("TinyKGAT", "tiny", config_dict=parameters)
    return parameters, result, folder


def batches(experiment):
    """Every tensor of the first epoch, as KGAT trains: all of `rs`, then all of `kg`."""
    from recbole.utils import KGDataLoaderState

    loader, found = experiment.train_data, []
    for state in (KGDataLoaderState.RS, KGDataLoaderState.KG):
        loader.set_mode(state)
        found += [batch.interaction for batch in loader]
    return found


@pytest.mark.parametrize("name", ["KGAT", "TinyKGAT"])
def test_same_seed_gives_recboles_weights_splits_and_batches(name, tiny):
    _, (train_data, *evaluation), model = build_stock("KGAT", tiny)
    expected_batches = batches(type("Recboles", (), {"train_data": train_data}))
    experiment = prepare(name, "tiny", config_dict=tiny)
    expected, actual = model.state_dict(), experiment.model.state_dict()
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    for ours, recboles in zip(
        (experiment.valid_data, experiment.test_data), evaluation, strict=True
    ):
        assert torch.equal(ours._dataset.inter_feat["item_id"], recboles._dataset["item_id"])
    actual_batches = batches(experiment)
    assert len(actual_batches) == len(expected_batches) > 2
    for ours, recboles in zip(actual_batches, expected_batches, strict=True):
        assert ours.keys() == recboles.keys()
        assert all(torch.equal(ours[key], recboles[key]) for key in recboles)


@pytest.mark.parametrize("name", ["TinyKGAT", "KGAT", "KGCN", "BPR"])
def test_prepare_writes_no_files(name, tiny, empty_working_folder):
    experiment = prepare(name, "tiny", config_dict=tiny)
    assert type(experiment.model).__name__ == experiment.config["model"] == name
    assert not list(empty_working_folder.rglob("*"))


def test_prepared_experiment_trains_without_files(tiny, empty_working_folder):
    experiment = prepare("TinyKGAT", "tiny", config_dict=tiny)
    score, result = experiment.trainer.fit(
        experiment.train_data, experiment.valid_data, saved=False
    )
    assert np.isfinite(score) and set(result) == METRICS
    assert {path.name for path in empty_working_folder.iterdir()} <= {"log_tensorboard"}


def test_result_has_recboles_keys_memory_and_time(trained):
    _, result, _ = trained
    assert result["valid_score_bigger"] is True
    assert result["best_valid_score"] == result["best_valid_result"]["mrr@5"]
    for metrics in (result["best_valid_result"], result["test_result"]):
        assert metrics.keys() == METRICS
        assert all(type(value) is float for value in metrics.values())
    memory = result["memory"]
    assert memory["rs"]["saved_activation_bytes"] > 0
    for phase in ("rs", "kg"):
        assert memory[phase]["saved_activation_bytes"] <= memory[phase]["peak_bytes"]
    assert all(memory[f"{part}_bytes"] > 0 for part in ("parameter", "optimizer", "graph"))
    assert len(result["epoch_seconds"]) == 3
    assert all(epoch["total"] >= epoch["rs"] + epoch["kg"] > 0 for epoch in result["epoch_seconds"])


def test_run_leaves_its_files_under_one_name(trained):
    _, result, folder = trained
    run = result["run_name"]
    saved = folder / "saved"
    assert {path.name for path in saved.iterdir()} == {
        f"{run}.pth",
        f"{run}-last.pth",
        f"{run}.json",
    }
    assert {name: Path(path).name for name, path in result["files"].items()} == {
        "best": f"{run}.pth",
        "last": f"{run}-last.pth",
        "result": f"{run}.json",
    }
    assert [path.name for path in (folder / "log_tensorboard").iterdir()] == [run]
    assert len(list((folder / "log" / "TinyKGAT").iterdir())) == 1


def test_json_holds_result_and_configuration(trained):
    parameters, result, _ = trained
    content = json.loads(Path(result["files"]["result"]).read_text())
    assert {key: content[key] for key in result} == result
    assert content["config"]["compress_bits"] == 2
    assert content["config"]["embedding_size"] == parameters["embedding_size"]
    assert content["versions"]["torch"] == torch.__version__


def test_loaded_model_scores_as_the_trained_one(trained):
    parameters, result, _ = trained
    config, model, dataset, train_data, valid_data, test_data = load_data_and_model(
        result["files"]["best"]
    )
    assert config["run_name"] == result["run_name"]
    assert dataset.dataset_name == "tiny"
    assert len(train_data._dataset) > len(valid_data._dataset)
    from recbole_tinykg.trainer import get_trainer

    trainer = get_trainer(config, model)
    metrics = trainer.evaluate(test_data, load_best_model=False)
    assert {name: float(value) for name, value in metrics.items()} == result["test_result"]
    metrics = trainer.evaluate(valid_data, load_best_model=False)
    assert {name: float(v) for name, v in metrics.items()} == result["best_valid_result"]


def test_loading_writes_no_files(trained, empty_working_folder):
    load_data_and_model(trained[1]["files"]["best"])
    assert not list(empty_working_folder.iterdir())


def test_loading_takes_changed_parameters(trained):
    config, *_ = load_data_and_model(trained[1]["files"]["best"], config_dict={"topk": [3]})
    assert config["topk"] == [3]


def test_resumed_run_ends_as_an_uninterrupted_one(trained, tiny):
    _, expected, _ = trained
    first = run_recbole_tinykg("TinyKGAT", "tiny", config_dict={**tiny, "epochs": 1})
    resumed = run_recbole_tinykg(resume=first["files"]["last"], argv=["--epochs=3"])
    for key in ("best_valid_score", "best_valid_result", "test_result"):
        assert resumed[key] == expected[key]
    assert resumed["files"] == first["files"]
    assert len(resumed["epoch_seconds"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "KGAT"}, "is a checkpoint of model TinyKGAT; got model KGAT"),
        ({"dataset": "ml-100k"}, "is a checkpoint of dataset tiny; got dataset ml-100k"),
        ({"argv": ["--compress_bits=4"]}, "compress_bits: 2 in the checkpoint, 4 now"),
        ({}, "finished run"),
    ],
)
def test_resume_refuses_what_is_not_that_run(trained, arguments, message):
    with pytest.raises(CheckpointError, match=message):
        run_recbole_tinykg(resume=trained[1]["files"]["last"], **arguments)


def test_run_without_saving_leaves_no_checkpoint(tiny, empty_working_folder):
    result = run_recbole_tinykg("KGAT", "tiny", config_dict=tiny, saved=False)
    assert "files" not in result
    assert not list(empty_working_folder.rglob("*.pth"))
    assert not list(empty_working_folder.rglob("*.json"))


def test_stock_model_ends_where_recbole_ends(tiny, monkeypatch):
    pytest.importorskip("ray", reason="recbole.quick_start imports ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run_recbole.py"])
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from recbole.quick_start import run_recbole

            expected = run_recbole("KGAT", "tiny", config_dict=dict(tiny), saved=False)
    torch.autograd.set_detect_anomaly(False)  # RecBole's get_model switched it on
    actual = run_recbole_tinykg("KGAT", "tiny", config_dict=tiny, saved=False)
    for key in ("best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"):
        assert actual[key] == expected[key]


def log_files() -> list[Path]:
    return sorted(Path("log").rglob("*.log"))


def test_every_run_of_a_process_logs_to_its_own_file(tiny):
    tiny |= {"state": "INFO", "epochs": 1}
    run_recbole_tinykg("TinyKGAT", "tiny", config_dict=tiny)
    (first,) = log_files()
    before = first.read_text()
    run_recbole_tinykg("KGAT", "tiny", config_dict=tiny)
    assert first.read_text() == before
    (second,) = set(log_files()) - {first}
    for file, model in ((first, "TinyKGAT"), (second, "KGAT")):
        text = file.read_text()
        assert f"run_name = {model}-tiny" in text
        assert text.count("test result") == 1


def test_handlers_of_other_people_stay(tiny):
    class Recorder(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.messages.append(record.getMessage())

    recorder = Recorder()
    logging.getLogger().addHandler(recorder)
    for _ in range(2):
        run_recbole_tinykg("TinyKGAT", "tiny", config_dict={**tiny, "state": "INFO", "epochs": 1})
    assert recorder in logging.getLogger().handlers
    assert sum("test result" in message for message in recorder.messages) == 2


def test_unwritable_log_folder_is_one_clear_error(tiny):
    Path("log").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"\./log must be a writable folder"):
        run_recbole_tinykg("TinyKGAT", "tiny", config_dict=tiny)


def test_required_library_that_is_missing_stops_before_the_data(tiny, monkeypatch):
    monkeypatch.setattr(
        registration, "native_status", lambda device_type: (False, "it is not there")
    )
    prepare("TinyKGAT", "tiny", config_dict=tiny)
    with pytest.raises(NativeLibraryError, match="it is not there; build it with"):
        prepare("TinyKGAT", "tiny", config_dict={**tiny, "compress_require_native": True})


@pytest.mark.parametrize("entry_point", [prepare, run_recbole_tinykg])
def test_wrong_input_is_refused_before_anything_is_written(entry_point, tiny, empty_working_folder):
    with pytest.raises(ConfigurationError, match="compress_bits"):
        entry_point("TinyKGAT", "tiny", config_dict={**tiny, "compress_bits": 3})
    assert not list(empty_working_folder.iterdir())


def test_interrupt_names_the_checkpoint_to_continue_from(tiny, monkeypatch):
    from recbole_tinykg.model.kgat import TinyKGAT

    refresh, calls = TinyKGAT.update_attentive_A, []

    def interrupted(self):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        refresh(self)

    monkeypatch.setattr(TinyKGAT, "update_attentive_A", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        run_recbole_tinykg("TinyKGAT", "tiny", config_dict=tiny)
    (note,) = error.value.__notes__
    last = note.removeprefix("continue with --resume=")
    assert run_recbole_tinykg(resume=last)["epoch_seconds"]


def test_streams_are_wrapped_once_however_many_runs(tiny):
    for _ in range(3):
        run_recbole_tinykg("TinyKGAT", "tiny", config_dict={**tiny, "epochs": 1}, saved=False)
    wrapped = vars(sys.stdout)["_StreamWrapper__wrapped"]
    assert not isinstance(wrapped, type(sys.stdout))


def test_result_that_cannot_be_written_is_one_clear_error(tmp_path, tiny):
    config = prepare("TinyKGAT", "tiny", config_dict=tiny).config
    path = tmp_path / "run.json"
    path.mkdir()
    with pytest.raises(UserError, match=r"run\.json cannot be written: "):
        write_result(path, {}, config)
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_lacks_become_null(tmp_path, tiny):
    config = prepare("TinyKGAT", "tiny", config_dict=tiny).config
    write_result(tmp_path / "run.json", {"a": [float("nan"), -np.inf, 1.5]}, config)
    assert json.loads((tmp_path / "run.json").read_text())["a"] == [None, None, 1.5]
