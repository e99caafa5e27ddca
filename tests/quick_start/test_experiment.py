"""A checkpoint is opened once by whatever opens it, and only with the data it was trained on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from helpers.datasets import write_tiny_dataset
from helpers.processes import run_python
from recbole_tinykg import load_data_and_model, prepare, recommend
from recbole_tinykg.checkpoint import checkpoint as checkpoint_file
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.evaluate import evaluate
from recbole_tinykg.commands.tune import study
from recbole_tinykg.commands.tune.trial import TrialPlan, run_trial
from recbole_tinykg.config import Config
from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.quick_start import Experiment, restore
from recbole_tinykg.quick_start import experiment as experiment_module
from recbole_tinykg.quick_start.experiment import build

DIFFERS = "checkpoint does not fit, data set differs: "


@pytest.fixture
def copied(checkpoint, tmp_path) -> RunFiles:
    """The checkpoints of a run, in a folder that a test may write to."""
    files = RunFiles.in_folder(tmp_path / "saved", "run")
    shutil.copytree(checkpoint.parent, files.best.parent)
    return files


@pytest.fixture
def opened(monkeypatch) -> Counter[str]:
    """How often each file has been verified and how often it has been read."""
    counts: Counter[str] = Counter()

    def count(module, name):
        original = getattr(module, name)

        def counted(path, **kwargs):
            counts[f"{name} {Path(path).name}"] += 1
            return original(path, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(checkpoint_file, "_check_archive")
    count(torch, "load")
    return counts


def once(*names: str) -> dict[str, int]:
    return {f"{what} {name}": 1 for name in names for what in ("_check_archive", "load")}


@pytest.mark.parametrize(
    "open_checkpoint",
    [restore, load_data_and_model, evaluate, lambda file: list(recommend(file, ["u1"]))],
)
def test_a_checkpoint_is_opened_once(open_checkpoint, copied, opened):
    open_checkpoint(copied.last)
    assert opened == once("run-last.pth")


@pytest.mark.parametrize("command", ["evaluate", "recommend"])
def test_a_command_opens_the_checkpoint_once(command, copied, opened):
    assert cli.main([command, f"--checkpoint={copied.best}"]) == 0
    assert opened == once("run.pth")


def test_resuming_opens_each_file_of_the_run_once(copied, opened):
    argv = [f"--resume={copied.last}", "--epochs=2", f"--checkpoint_dir={copied.best.parent}"]
    assert cli.main(argv) == 0
    assert opened == once("run-last.pth", "run.pth")  # the second to evaluate the best epoch


class WorkerDied(BaseException):
    """Stands for a kill."""


def test_a_trial_that_goes_on_opens_its_checkpoint_once(tiny, tmp_path, opened):
    config = Config("TinyKGAT", "tiny", config_dict=tiny)
    plan = TrialPlan(str(tmp_path), study.shared_configuration(config), 1, 0)

    def die(row):
        raise WorkerDied

    with pytest.raises(WorkerDied):
        run_trial(0, {}, plan, die)
    rows = []
    run_trial(0, {}, plan, rows.append)
    assert [row["epoch"] for row in rows] == [1, 2, 2]
    assert opened == once("trial-000-last.pth")


RECBOLES_SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import recbole_tinykg
from recbole_tinykg.checkpoint import checkpoint
recbole_tinykg.register()
from recbole.quick_start import load_data_and_model
verify, opened = checkpoint._check_archive, []
checkpoint._check_archive = lambda path: (opened.append(path), verify(path))
load_data_and_model(sys.argv[1])
assert len(opened) == 1, opened
"""


def test_recboles_function_opens_our_checkpoint_once(checkpoint):
    pytest.importorskip("ray", reason="recbole.quick_start imports ray")
    run_python(RECBOLES_SCRIPT, str(checkpoint))


@pytest.fixture(params=["interactions", "triples", "entities"])
def changed_data(request, tiny_data_path, tmp_path) -> Path:
    """The data set under its name, with one line less, or with another entity."""
    shutil.copytree(tiny_data_path, tmp_path / "changed")
    suffix = "inter" if request.param == "interactions" else "kg"
    file = tmp_path / "changed" / "tiny" / f"tiny.{suffix}"
    lines = file.read_text().splitlines()
    lines = [*lines, "e0\tr0\te_new"] if request.param == "entities" else lines[:-1]
    file.write_text("\n".join(lines) + "\n")
    return tmp_path / "changed"


def test_changed_data_are_the_same_line_in_every_command(changed_data, copied, capsys):
    data_path = f"--data_path={changed_data}"
    lines = set()
    for argv in (
        ["evaluate", f"--checkpoint={copied.best}", data_path],
        ["recommend", f"--checkpoint={copied.best}", data_path],
        [f"--resume={copied.last}", "--epochs=2", data_path],
    ):
        assert cli.main(argv) == 2
        lines.add(capsys.readouterr().err.splitlines()[-1])
    (line,) = lines
    assert line.startswith(f"recbole-tinykg: error: {DIFFERS}")
    for opens in (restore, load_data_and_model):
        keyword = "changes" if opens is restore else "config_dict"
        with pytest.raises(CheckpointError, match=DIFFERS):
            opens(copied.best, **{keyword: {"data_path": str(changed_data)}})


def test_moved_data_are_the_same_data(checkpoint, tmp_path):
    moved = {"data_path": str(write_tiny_dataset(tmp_path))}
    assert evaluate(checkpoint, moved) == evaluate(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"topk": [3]},
        {"metrics": ["MRR"], "topk": [2]},
        {"eval_args": {"mode": "uni5"}},
        {"eval_batch_size": 37},
    ],
)
def test_how_to_evaluate_may_change(changes, checkpoint):
    assert evaluate(checkpoint, changes)["test"]


@pytest.mark.parametrize(
    "changes", [{"eval_args": {"split": {"RS": [0.5, 0.25, 0.25]}}}, {"seed": 1}]
)
def test_another_training_split_is_refused(changes, checkpoint):
    with pytest.raises(CheckpointError, match=DIFFERS):
        evaluate(checkpoint, changes)


def test_a_restored_run_is_an_experiment_with_the_trained_weights(checkpoint):
    built = restore(checkpoint)
    assert isinstance(built, Experiment) and list(built.splits) == ["train", "valid", "test"]
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[key]) for key, value in built.model.state_dict().items())


def test_a_model_with_a_loop_of_its_own_is_restored_but_not_prepared(tiny, tmp_path):
    built = build(Config("NCL", "tiny", config_dict=tiny))
    state = {**checkpoint_file.model_state(built.model), "config": built.config.to_plain()}
    checkpoint_file.save(tmp_path / "converted.pth", state)
    assert list(recommend(tmp_path / "converted.pth", ["u1"]))
    with pytest.raises(ConfigurationError, match="must train in RecBole's common loop; got NCL"):
        prepare("NCL", "tiny", config_dict=tiny)


def test_a_configuration_that_is_refused_reads_no_data(checkpoint, monkeypatch):
    def refuse(config):
        raise ConfigurationError(f"not for {config['model']}")

    monkeypatch.setattr(experiment_module, "build", lambda config: pytest.fail("data were read"))
    with pytest.raises(ConfigurationError, match="not for TinyKGAT"):
        restore(checkpoint, check=refuse)
