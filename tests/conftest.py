"""What every test gets: an empty working folder, and RecBole's traces in the process removed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_tinykg  # loads RecBole when a fixture first uses it
from helpers.datasets import TINY_RUN, write_tiny_dataset
from recbole_tinykg.commands import child

RECBOLES_WARNINGS = [
    # RecBole hands tensors to NumPy functions, and PyTorch's __array_wrap__ predates NumPy 2
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
    # RecBole's own training loop, where a test runs it as the oracle
    "ignore:.*torch.cuda.amp.GradScaler:FutureWarning",
    "ignore:torch.sparse.SparseTensor:UserWarning",
    # KGIN divides by the degree of nodes without an edge, and mends the result
    "ignore:divide by zero encountered in power:RuntimeWarning:recbole",
    # `\\p` in a docstring, told by Python 3.11 and by later ones when no bytecode is cached
    "ignore:.*invalid escape sequence:DeprecationWarning:.*recbole.model",
    "ignore:.*invalid escape sequence:SyntaxWarning:.*recbole.model",
]


def pytest_configure(config):
    """Warnings are errors, but for those that RecBole raises on current libraries.

    Processes that tests start, in folders of their own, find the packages that the tests find.
    """
    for line in RECBOLES_WARNINGS:
        config.addinivalue_line("filterwarnings", line)
    os.environ.update(child.environment())


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path_factory, monkeypatch) -> Path:
    """RecBole writes `log`, `log_tensorboard` and `saved` where it is started."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def clean_process(monkeypatch):
    """A run opens a log file, chooses GPUs in the environment and may touch autograd's mode."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ["CUDA_VISIBLE_DEVICES"])
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    assert not torch.is_anomaly_enabled(), "a test left autograd's anomaly mode on"


@pytest.fixture(scope="session")
def tiny_data_path(tmp_path_factory) -> Path:
    """The folder above a generated data set named `tiny`."""
    return write_tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(tiny_data_path) -> dict[str, Any]:
    """Parameters of a one-second run: `prepare("TinyKGAT", "tiny", config_dict=tiny)`."""
    return {**TINY_RUN, "data_path": str(tiny_data_path)}


@pytest.fixture
def ml_100k() -> dict[str, Any]:
    """Parameters for RecBole's bundled ml-100k at its defaults, on the CPU and quiet."""
    return {"epochs": 1, "show_progress": False, "state": "ERROR", "gpu_id": ""}


@pytest.fixture(scope="session")
def checkpoint_of(tiny_data_path, tmp_path_factory):
    """Trains a model for an epoch, once per parameters, and returns its checkpoint."""
    made: dict[str, Path] = {}

    def checkpoint(model: str, **parameters) -> Path:
        key = f"{model} {parameters}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("saved") / "run.pth"
            settings = {
                **TINY_RUN,
                "data_path": str(tiny_data_path),
                "epochs": 1,
                "checkpoint_dir": str(made[key].parent),
                "run_name": "run",
                "compress_bits": 2,
            }
            if not model.startswith("Tiny"):
                settings["detect_anomaly"] = False
                del settings["compress_bits"]
            recbole_tinykg.run_recbole_tinykg(model, "tiny", config_dict={**settings, **parameters})
        return made[key]

    return checkpoint


@pytest.fixture
def checkpoint(checkpoint_of) -> Path:
    """Of TinyKGAT on the data set `tiny`."""
    return checkpoint_of("TinyKGAT")


@pytest.fixture
def titled(tmp_path, checkpoint) -> tuple[Path, str]:
    """The checkpoint, and a data path with titles."""
    write_tiny_dataset(tmp_path)
    lines = ["item_id:token\ttitle:token_seq", *(f"i{i}\tFilm, the {i}th" for i in range(30))]
    (tmp_path / "tiny" / "tiny.item").write_text("\n".join(lines) + "\n")
    return checkpoint, f"--data_path={tmp_path}"
