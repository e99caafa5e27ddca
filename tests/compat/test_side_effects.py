"""RecBole's trainer writes and says only what somebody asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import recbole.trainer.trainer

from recbole_tinykg.compat.side_effects import no_files
from recbole_tinykg.errors import UserError
from recbole_tinykg.quick_start import prepare


def test_recbole_can_be_compiled_in_a_test_where_no_bytecode_is_cached():
    """Warnings are errors there, and some docstrings of RecBole's have invalid escapes."""
    for path in (Path(recbole.__file__).parent / "model").rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


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


def test_folder_that_takes_no_tensorboard_files_is_noticed_before_training(tiny):
    Path("log_tensorboard").touch()
    experiment = prepare("TinyKGAT", "tiny", config_dict=tiny)
    with pytest.raises(UserError, match="TensorBoard needs a writable folder"):
        experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    assert experiment.trainer.epoch_seconds == []


def test_recbole_makes_its_folders_again_after_the_block():
    module = recbole.trainer.trainer
    before = module.ensure_dir, module.get_tensorboard
    with pytest.raises(ZeroDivisionError), no_files():
        module.ensure_dir("never")
        raise ZeroDivisionError
    assert (module.ensure_dir, module.get_tensorboard) == before
    assert not Path("never").exists()
