"""TensorBoard's own readers find what a run did, as its result says it."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from recbole_tinykg.config import Config
from recbole_tinykg.quick_start import prepare, run_recbole_tinykg
from recbole_tinykg.trainer.tensorboard import RunWriter, bits_of_maps, hyperparameters


def events_of(result) -> EventAccumulator:
    return EventAccumulator(f"log_tensorboard/{result['run_name']}").Reload()


def values(events, tag) -> list[float]:
    return [event.value for event in events.Scalars(tag)]


@pytest.mark.parametrize("model", ["TinyKGAT", "KGAT", "TinyKGCN"])
def test_scalars_are_those_of_the_result(model, tiny):
    result = run_recbole_tinykg(model, "tiny", config_dict=tiny)
    events = events_of(result)
    for metric, value in result["test_result"].items():
        assert values(events, f"Test/{metric}") == [pytest.approx(value)]
    for metric, value in result["best_valid_result"].items():
        assert values(events, f"Valid_best/{metric}") == [pytest.approx(value)]
        assert len(values(events, f"Valid/{metric}")) == 2
    for phase in result["memory"].keys() & {"rs", "kg"}:
        for quantity, number in result["memory"][phase].items():
            if number:
                assert values(events, f"Memory/{phase}_{quantity}") == [number] * 2
    assert values(events, "Memory/parameter_bytes") == [result["memory"]["parameter_bytes"]] * 2
    assert values(events, "Memory/optimizer_bytes")[-1] == result["memory"]["optimizer_bytes"]
    seconds = [epoch["total"] for epoch in result["epoch_seconds"]]
    assert values(events, "Seconds/total") == pytest.approx(seconds)
    evaluations = result["evaluation_seconds"]
    assert len(evaluations) == 3  # two validations and the test
    assert values(events, "Seconds/evaluation") == pytest.approx(evaluations[:2])
    assert {"Vaild_score"} <= set(events.Tags()["scalars"])


def test_the_score_is_one_of_the_metrics(tiny):
    result = run_recbole_tinykg("TinyKGAT", "tiny", config_dict=tiny)
    events = events_of(result)
    assert values(events, "Valid/mrr@5") == values(events, "Vaild_score")


def test_hparams_find_parameters_and_results(tiny):
    result = run_recbole_tinykg("TinyKGAT", "tiny", config_dict={**tiny, "mess_dropout": 0.0})
    events = events_of(result)
    contents = {
        tag: events.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG)
    }
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["model"].string_value == "TinyKGAT"
    assert start.hparams["compress_bits"].number_value == 2
    assert start.hparams["mess_dropout"].number_value == 0  # and not left out
    tags = [info.name.tag for info in experiment.metric_infos]
    assert {"Test/recall@5", "Valid_best/mrr@5", "Seconds/total"} <= set(tags)
    assert set(tags) <= set(events.Tags()["scalars"])


def test_hparams_leave_out_what_tells_no_run_from_another(tiny):
    config = Config("TinyKGAT", "tiny", config_dict=tiny)
    shown = hyperparameters(config)
    assert not {"run_name", "compress_seed", "compressed_saves", "worker", "local_rank"} & {*shown}
    assert "cuda_graphs" not in shown
    config = Config("TinyKGAT", "tiny", config_dict={**tiny, "compress_seed": 3})
    assert hyperparameters(config)["compress_seed"] == 3


def test_evaluations_are_at_the_epochs_that_have_one(tiny):
    result = run_recbole_tinykg(
        "TinyKGCN", "tiny", config_dict={**tiny, "epochs": 4, "eval_step": 2}
    )
    events = events_of(result)
    assert [event.step for event in events.Scalars("Valid/mrr@5")] == [1, 3]
    assert [event.step for event in events.Scalars("Test/mrr@5")] == [3]


def test_a_resumed_run_goes_on_in_its_folder(tiny):
    first = run_recbole_tinykg("TinyKGCN", "tiny", config_dict=tiny)
    run_recbole_tinykg(resume=first["files"]["last"], config_dict={**tiny, "epochs": 3})
    assert [event.step for event in events_of(first).Scalars("Valid/mrr@5")] == [0, 1, 2]


def test_without_validation_there_is_no_best_epoch(tiny):
    experiment = prepare("TinyKGCN", "tiny", config_dict=tiny)
    experiment.trainer.fit(experiment.train_data, saved=False)
    events = events_of({"run_name": experiment.config["run_name"]})
    tags = set(events.Tags()["scalars"])
    assert "Loss/Train" in tags and not any(tag.startswith("Valid") for tag in tags)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("TinyKGAT", {"all_maps": 4}), ("KGAT", {})],
)
def test_bits_of_a_model_are_those_of_all_its_maps(model, expected, tiny):
    bits = {"compress_bits": 4} if expected else {}
    experiment = prepare(model, "tiny", config_dict={**tiny, **bits})
    assert bits_of_maps(experiment.model, experiment.config) == expected


def test_bits_per_map_are_shown_by_name_as_they_change(tiny):
    experiment = prepare("TinyKGCN", "tiny", config_dict={**tiny, "compress_budget": "30KiB"})
    trainer, seen = experiment.trainer, []

    def look(epoch, score):
        seen.append(dict(experiment.model.map_bits))

    trainer.fit(experiment.train_data, experiment.valid_data, saved=False, callback_fn=look)
    events = events_of({"run_name": experiment.config["run_name"]})
    for name in experiment.model.map_sites:
        assert values(events, f"Bits/{name}") == [bits[name] for bits in seen]
    assert "Bits/all_maps" not in events.Tags()["scalars"]


def test_writer_that_wrote_nothing_leaves_nothing(tmp_path):
    RunWriter(tmp_path / "run").close()
    assert list(tmp_path.iterdir()) == []


def test_writer_opens_a_new_file_after_closing(tmp_path):
    writer = RunWriter(tmp_path / "run")
    for step in range(2):
        writer.add_scalar("a", 0.5, step)
        writer.close()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Scalars("a")] == [0, 1]
