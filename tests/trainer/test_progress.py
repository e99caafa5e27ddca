"""A terminal sees what a pass counts; a log sees a line."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recbole.trainer.trainer

from recbole_tinykg.quick_start import prepare
from recbole_tinykg.trainer.progress import Progress, shown_as


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self):
        return True


def fit(model, tiny):
    experiment = prepare(model, "tiny", config_dict={**tiny, "epochs": 1})
    data = experiment.train_data, experiment.valid_data
    experiment.trainer.fit(*data, saved=False, show_progress=True, verbose=False)
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False, show_progress=True)
    return experiment


PASSES = {
    "KGAT": ["epoch 0, recommendation", "epoch 0, knowledge graph"],
    "TinyKGAT": ["epoch 0, recommendation", "epoch 0, knowledge graph"],
    "TinyKGCN": ["epoch 0, recommendation"],
}


@pytest.mark.parametrize("model", PASSES)
def test_a_log_gets_a_line_per_pass(model, tiny, caplog, capsys):
    with caplog.at_level(logging.INFO):
        fit(model, tiny)
    lines = [m for m in caplog.messages if re.search(r": (1 batch|\d+ batches) in \d+\.\d\d s$", m)]
    expected = [*PASSES[model], "epoch 0, validation", "evaluation"]
    assert [line.split(":")[0] for line in lines] == expected
    assert "\r" not in capsys.readouterr().err


@pytest.mark.parametrize("model", PASSES)
def test_a_terminal_sees_what_is_counted_to_the_end(model, tiny, monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO):
        experiment = fit(model, tiny)
    bars = [line for line in terminal.getvalue().replace("\n", "\r").split("\r") if line]
    for what in [*PASSES[model], "epoch 0, validation", "evaluation"]:
        last = [bar for bar in bars if bar.startswith(f"{what}:")][-1]
        done, total = re.search(r"(\d+)/(\d+) \[.* batches/s", last).groups()
        assert done == total
    number = len(experiment.test_data)
    assert f"{number}/{number}" in bars[-1]
    assert not any(re.search(r": \d+ batch", message) for message in caplog.messages)


def test_a_pass_that_fails_has_no_line(caplog):
    def batches():
        yield 1
        raise ZeroDivisionError

    with caplog.at_level(logging.INFO), pytest.raises(ZeroDivisionError):
        list(Progress(batches(), "epoch 0"))
    assert caplog.messages == []


def test_recbole_draws_its_own_bars_again_after_the_block():
    module = recbole.trainer.trainer
    before = module.tqdm
    with pytest.raises(ZeroDivisionError), shown_as("never"):
        assert module.tqdm is not before
        raise ZeroDivisionError
    assert module.tqdm is before


def test_a_redirected_run_has_no_colours_and_no_carriage_returns(tiny):
    parameters = {**tiny, "epochs": 1, "state": "INFO", "show_progress": True}
    arguments = [f"--{key}={value!r}" for key, value in parameters.items()]
    command = [sys.executable, "-m", "recbole_tinykg.commands.cli", "--dataset=tiny", *arguments]
    run = subprocess.run(command, capture_output=True)  # bytes: text would turn `\r` into `\n`
    assert run.returncode == 0, run.stderr.decode()
    (log,) = Path("log").rglob("*.log")
    for text in (run.stdout, run.stderr, log.read_bytes()):
        assert text and b"\x1b" not in text and b"\r" not in text
    assert b"epoch 0, knowledge graph: " in run.stderr
