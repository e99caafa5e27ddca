"""A run keeps its best and its last epoch, and writes neither twice."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from recbole_tinykg.checkpoint import checkpoint
from recbole_tinykg.checkpoint.run_files import RunFiles

STATE = {"epoch": 3, "weights": torch.arange(10.0)}


def test_last_epoch_that_is_the_best_is_written_once(tmp_path, monkeypatch):
    files = RunFiles(tmp_path / "run.pth")
    files.save_best(STATE)
    assert files.last.samefile(files.best)
    monkeypatch.setattr(checkpoint, "save", lambda *_: pytest.fail("written again"))
    files.save_last(3, lambda: STATE)


def test_last_epoch_does_not_touch_the_best(tmp_path):
    files = RunFiles(tmp_path / "run.pth")
    files.save_best(STATE)
    files.save_last(4, lambda: STATE | {"epoch": 4})
    assert checkpoint.load(files.best)["epoch"] == 3
    assert checkpoint.load(files.last)["epoch"] == 4


def test_disk_without_hard_links_gets_two_files(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    files = RunFiles(tmp_path / "run.pth")
    files.save_best(STATE)
    files.save_last(3, lambda: STATE)
    assert not files.last.samefile(files.best)
    assert checkpoint.load(files.last)["epoch"] == 3
