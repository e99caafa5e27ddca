"""RecBole's trainer writes and says only what somebody asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import recbole.trainer.trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_tinykg.board import LazyWriter
from recbole_tinykg.errors import UserError
from recbole_tinykg.quick_start import prepare
from recbole_tinykg.side_effects import no_files


def fit(model, parameters, **arguments):
    experiment = prepare(model, "tiny", config_dict=parameters)
    experiment.trainer.fit(experiment.train_data, experiment.valid_data, **arguments)
    return experiment


@pytest.mark.parametrize("model", ["TinyKGAT", "KGAT"])
def test_preparing_writes_no_files(model, tiny):
    prepare(model, "tiny", config_dict=tiny)
    assert list(Path().iterdir()) == []


def test_without_saving_only_tensorboard_is_written(tiny):
    fit("TinyKGAT", tiny, saved=False)
    assert [path.name for path in Path().iterdir()] == ["log_tensorboard"]


def test_tensorboard_gets_loss_score_memory_and_seconds(tiny):
    experiment = fit("TinyKGAT", tiny)
    events = EventAccumulator(f"log_tensorboard/{experiment.config['run_name']}").Reload()
    tags = set(events.Tags()["scalars"])
    assert {"Loss/Train0", "Loss/Train1", "Vaild_score", "Seconds/total", "Seconds/refresh"} <= tags
    assert {"Memory/rs_saved_activation_bytes", "Memory/kg_peak_bytes"} <= tags
    measured = experiment.trainer.memory()["rs"]["saved_activation_bytes"]
    assert [e.value for e in events.Scalars("Memory/rs_saved_activation_bytes")] == [measured] * 2


def test_folder_that_takes_no_tensorboard_files_is_noticed_before_training(tiny):
    Path("log_tensorboard").touch()
    experiment = prepare("TinyKGAT", "tiny", config_dict=tiny)
    with pytest.raises(UserError, match="TensorBoard needs a writable folder"):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    assert experiment.trainer.epoch_seconds == []


def test_writer_that_wrote_nothing_leaves_nothing(tmp_path):
    LazyWriter(tmp_path / "run").close()
    assert list(tmp_path.iterdir()) == []


def test_writer_opens_a_new_file_after_closing(tmp_path):
    writer = LazyWriter(tmp_path / "run")
    for step in range(2):
        writer.add_scalar("a", 0.5, step)
        writer.close()
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [event.step for event in events.Scalars("a")] == [0, 1]


def test_recbole_makes_its_folders_again_after_the_block():
    module = recbole.trainer.trainer
    before = module.ensure_dir, module.get_tensorboard
    with pytest.raises(ZeroDivisionError), no_files():
        module.ensure_dir("never")
        raise ZeroDivisionError
    assert (module.ensure_dir, module.get_tensorboard) == before
    assert not Path("never").exists()
