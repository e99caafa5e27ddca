"""Processes that commands start end with them, and say in a line why they failed."""

from __future__ import annotations

import signal
import sys

import pytest

from recbole_tinykg.commands import child


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (2, "Traceback\nerror: no such key\n\n", "no such key"),
        (1, "ValueError: x  \n", "ValueError: x"),
        (3, " \n", "the process ended with status 3"),
        (-signal.SIGTERM, "error: x", "the process was ended by SIGTERM"),
        (-signal.SIGKILL, "", "the process was ended by SIGKILL, perhaps by the system because"),
    ],
)
def test_a_failure_is_told_in_a_line(status, output, reason):
    assert child.why_failed(status, output).startswith(reason)
    assert "\n" not in child.why_failed(status, output)


def test_a_process_finds_what_this_one_finds(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", "relative")  # to a folder that this process has left
    monkeypatch.syspath_prepend(tmp_path)
    command = [sys.executable, "-c", "import only_here, recbole_tinykg.commands, pytest"]
    with child.started(command) as process:
        assert process.wait(60) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_process_does_not_outlive_an_error(error):
    with pytest.raises(error), child.started([sys.executable, "-c", "input()"]) as process:
        raise error
    assert process.returncode == -signal.SIGTERM
