"""A run that was interrupted and continued ends where a whole one ends, bit for bit on the CPU."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from helpers.datasets import write_tiny_dataset
from helpers.identical import assert_identical
from recbole_tinykg.checkpoint import checkpoint
from recbole_tinykg.checkpoint.run_files import RunFiles
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.quick_start import prepare

EPOCHS = 4


class Interrupted(Exception):
    """Stands for whatever ends a process after an epoch."""


class Run(NamedTuple):
    trainer: Any
    metrics: dict[str, float]

    @property
    def last_file(self) -> Path:
        return RunFiles(self.trainer.saved_model_file).last

    def outcome(self) -> dict[str, Any]:
        """What a finished run leaves, but for its name: the last epoch's file and test metrics."""
        state = checkpoint.load(self.last_file)
        del state["config"]
        return {**state, "test": self.metrics}


def train(model, parameters, *, resume=None, stop_after=None):
    """Trains to the end and tests, or stops after epoch `stop_after`."""
    experiment = prepare(model, "tiny", config_dict=parameters)
    if resume:
        experiment.trainer.resume_checkpoint(resume)
        disturb_random_state()

    def stop(epoch, score):
        if epoch == stop_after:
            raise Interrupted

    data = (experiment.train_data, experiment.valid_data)
    if stop_after is not None:
        with pytest.raises(Interrupted):
            experiment.trainer.fit(*data, callback_fn=stop)
        return Run(experiment.trainer, {})
    experiment.trainer.fit(*data)
    return Run(experiment.trainer, dict(experiment.trainer.evaluate(experiment.test_data)))


def disturb_random_state():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


@pytest.fixture
def parameters(tiny):
    """With dropout: from PyTorch's generator in stock KGAT, from the noise stream in the twin."""
    return {**tiny, "epochs": EPOCHS, "mess_dropout": 0.2, "layers": [8, 4]}


STOCK = ["KGAT", "KGCN", "RippleNet", "MKR", "KTUP"]


@pytest.mark.parametrize("model", ["TinyKGAT", *STOCK])
def test_resumed_run_equals_an_uninterrupted_one(model, tiny, parameters):
    parameters = parameters if model.endswith("KGAT") else {**tiny, "epochs": EPOCHS}
    whole = train(model, parameters)
    begun = train(model, parameters, stop_after=1)
    resumed = train(model, parameters, resume=begun.last_file)
    assert resumed.trainer.start_epoch == 2
    assert_identical(whole.outcome(), resumed.outcome())


@pytest.mark.parametrize("model", ["TinyKGAT", "KGAT"])
def test_resumed_run_equals_an_uninterrupted_one_with_sampled_evaluation(model, parameters):
    parameters |= {"eval_args": {"mode": "uni10"}}
    whole = train(model, parameters)
    resumed = train(model, parameters, resume=train(model, parameters, stop_after=1).last_file)
    assert_identical(whole.outcome(), resumed.outcome())


def test_run_resumes_from_its_best_epoch_too(parameters):
    whole = train("TinyKGAT", parameters)
    begun = train("TinyKGAT", parameters, stop_after=2)
    resumed = train("TinyKGAT", parameters, resume=begun.trainer.saved_model_file)
    assert resumed.trainer.saved_model_file == begun.trainer.saved_model_file
    assert_identical(whole.outcome(), resumed.outcome())


def test_epoch_without_evaluation_is_kept_and_resumed(parameters):
    whole = train("TinyKGAT", {**parameters, "eval_step": 2})
    begun = train("TinyKGAT", {**parameters, "eval_step": 2, "epochs": 3})
    assert checkpoint.load(begun.last_file)["epoch"] == 2
    resumed = train("TinyKGAT", {**parameters, "eval_step": 2}, resume=begun.last_file)
    assert_identical(whole.outcome(), resumed.outcome())


def test_run_without_validation_data_keeps_every_epoch(parameters):
    experiment = prepare("TinyKGAT", "tiny", config_dict={**parameters, "epochs": 2})
    experiment.trainer.fit(experiment.train_data)
    run = Run(experiment.trainer, {})
    for file in (run.trainer.saved_model_file, run.last_file):
        assert checkpoint.load(file)["epoch"] == 1


def test_more_epochs_may_be_asked_for_on_resume(parameters):
    finished = train("TinyKGAT", {**parameters, "epochs": 2})
    whole = train("TinyKGAT", parameters)
    assert_identical(
        whole.outcome(), train("TinyKGAT", parameters, resume=finished.last_file).outcome()
    )


KILLED_WHILE = {
    "a checkpoint is written": """
        write = torch.save
        def slow_save(state, file):
            if state["epoch"] < 1:
                return write(state, file)
            content = io.BytesIO()
            write(state, content)
            file.write(content.getvalue()[: content.tell() // 2])
            file.flush()
            wait_for_the_end()
        torch.save = slow_save
    """,
    "an epoch is trained": """
        train_epoch = type(experiment.trainer)._train_epoch
        def slow_epoch(self, data, epoch, *args, **kwargs):
            if epoch == 1:
                train_epoch(self, data, epoch, *args, **kwargs)
                wait_for_the_end()
            return train_epoch(self, data, epoch, *args, **kwargs)
        type(experiment.trainer)._train_epoch = slow_epoch
    """,
}


@pytest.mark.parametrize("moment", KILLED_WHILE)
def test_killed_process_leaves_a_checkpoint_to_resume_from(moment, parameters, tmp_path):
    marker = tmp_path / "waiting"
    script = (
        textwrap.dedent(f"""
        import io, time, torch
        from pathlib import Path
        from recbole_tinykg.quick_start import prepare

        def wait_for_the_end():
            Path({str(marker)!r}).touch()
            time.sleep(600)

        parameters = {parameters!r} | {{"run_name": "killed"}}
        experiment = prepare("TinyKGAT", "tiny", config_dict=parameters)
    """)
        + textwrap.dedent(KILLED_WHILE[moment])
        + textwrap.dedent("""
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    """)
    )
    kill_at(marker, subprocess.Popen([sys.executable, "-c", script]))

    assert checkpoint.load("saved/killed.pth")["epoch"] == 0
    assert checkpoint.load("saved/killed-last.pth")["epoch"] == 0
    resumed = train("TinyKGAT", parameters, resume="saved/killed-last.pth")
    assert_identical(train("TinyKGAT", parameters).outcome(), resumed.outcome())
    assert not list(Path("saved").glob("killed*.tmp"))


def kill_at(marker, process, limit_seconds=120):
    start = time.monotonic()
    while not marker.exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() - start < limit_seconds
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def assert_refused(message, model, parameters, file, dataset="tiny"):
    experiment = prepare(model, dataset, config_dict=parameters)
    with pytest.raises(CheckpointError, match=message):
        experiment.trainer.resume_checkpoint(file, experiment.train_data)
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    assert experiment.trainer.epoch_seconds == []


@pytest.fixture
def begun(parameters):
    return train("TinyKGAT", parameters, stop_after=1).last_file


def test_finished_run_is_refused(parameters):
    file = train("TinyKGAT", {**parameters, "epochs": 1}).last_file
    assert_refused("finished run: all 1 epochs", "TinyKGAT", {**parameters, "epochs": 1}, file)


def train_to_scores(parameters, *scores) -> Run:
    """A run whose evaluations come out as given."""
    experiment = prepare("TinyKGAT", "tiny", config_dict=parameters)
    outcomes = iter(scores)
    experiment.trainer.evaluate = lambda *_, **__: {"mrr@5": next(outcomes)}
    experiment.trainer.fit(experiment.train_data, experiment.valid_data)
    return Run(experiment.trainer, {})


def test_early_stopped_run_is_refused(parameters):
    parameters |= {"stopping_step": 1}
    run = train_to_scores(parameters, 0.5, 0.4, 0.3)
    message = "stopped early after epoch 2, 2 evaluations without"
    assert_refused(message, "TinyKGAT", parameters, run.last_file)


def test_early_stopped_run_goes_on_with_more_patience(parameters):
    begun = train_to_scores({**parameters, "stopping_step": 1}, 0.5, 0.4, 0.3)
    experiment = prepare("TinyKGAT", "tiny", config_dict={**parameters, "stopping_step": 9})
    experiment.trainer.resume_checkpoint(begun.last_file)
    assert experiment.trainer.start_epoch == 3
    assert experiment.trainer.cur_step == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate: 0.001 in the checkpoint, 0.5 now"),
        ({"compress_bits": 4}, "compress_bits: 2 in the checkpoint, 4 now"),
        (
            {"layers": [8, 8]},
            r"configuration differs: layers: \[8, 4\] in the checkpoint, \[8, 8\] now",
        ),
        ({"seed": 1}, "compress_seed: 2020 in the checkpoint, 1 now; seed: 2020 in .*, 1 now"),
    ],
)
def test_changed_configuration_is_refused(change, message, parameters, begun):
    assert_refused(message, "TinyKGAT", {**parameters, **change}, begun)


def test_checkpoint_of_a_version_without_a_key_continues_with_the_key_off(parameters, begun):
    state = checkpoint.load(begun)
    assert state["config"].pop("skip_unread_kg_batches") is False
    checkpoint.save(begun, state)
    experiment = prepare("TinyKGAT", "tiny", config_dict=parameters)
    experiment.trainer.resume_checkpoint(begun)
    assert_refused(
        "None in the ch.*, True",
        "TinyKGAT",
        {**parameters, "skip_unread_kg_batches": True},
        begun,
    )


def test_other_model_is_refused(parameters, begun):
    assert_refused("checkpoint is of model TinyKGAT; got KGAT", "KGAT", parameters, begun)


def test_data_set_that_changed_under_its_name_is_refused(parameters, begun, tmp_path):
    write_tiny_dataset(tmp_path, seed=8)
    changed = {**parameters, "data_path": str(tmp_path)}
    message = "data set differs: num_train_interactions: .* in the checkpoint, .* now; train_checks"
    assert_refused(message, "TinyKGAT", changed, begun)


def test_missing_best_epoch_is_refused(parameters, begun):
    begun.with_name(begun.name.replace("-last", "")).unlink()
    assert_refused("needs the best epoch of its run beside it", "TinyKGAT", parameters, begun)


def test_last_epoch_under_another_name_is_refused(parameters, tmp_path):
    run = train_to_scores({**parameters, "epochs": 2}, 0.5, 0.4)
    renamed = run.last_file.rename(tmp_path / "model.pth")
    message = "holds the last epoch of a run under the name of its best"
    assert_refused(message, "TinyKGAT", parameters, renamed)


def test_converted_checkpoint_is_refused(parameters, begun):
    state = checkpoint.load(begun)
    del state["random_state"]
    checkpoint.save(begun, state)
    assert_refused("holds no random state", "TinyKGAT", parameters, begun)
