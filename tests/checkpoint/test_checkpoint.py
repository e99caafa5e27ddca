"""Checkpoints are safe to open, whole or absent, and told apart when they do not fit."""

from __future__ import annotations

import errno
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from recbole.config import Config
from recbole.trainer import KGATTrainer

from recbole_tinykg.checkpoint import checkpoint
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.quick_start import prepare

STATE = {"epoch": 3, "weights": torch.arange(10_000.0)}


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "run.pth"
    checkpoint.save(path, STATE)
    return path


def assert_still_good(path):
    state = checkpoint.load(path)
    assert state["epoch"] == STATE["epoch"]
    assert torch.equal(state["weights"], STATE["weights"])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class Opaque:
    pass


def test_slice_is_saved_without_the_rest_of_its_storage(tmp_path):
    checkpoint.save(tmp_path / "slice.pth", {"rows": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "slice.pth").stat().st_size < 10_000


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(
            CheckpointError, match=f"^{path} must be a checkpoint file; there is no"
        ):
            checkpoint.load(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_truncated_file_is_refused(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match="no checkpoint, or a truncated one"):
        checkpoint.load(saved)


def test_flipped_bit_in_the_numbers_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    torch.load(saved, weights_only=True)  # PyTorch itself says nothing
    with pytest.raises(CheckpointError, match="is damaged: .* wrong checksum"):
        checkpoint.load(saved)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no tensors here")


FOREIGN = {
    "zip archive": write_zip,
    "weights": lambda path: torch.save({"weight": torch.ones(1)}, path),
    "tensor": lambda path: torch.save(torch.ones(1), path),
    "pickled object": lambda path: torch.save({"object": Opaque()}, path),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file_is_refused(kind, tmp_path):
    FOREIGN[kind](tmp_path / "foreign.pth")
    with pytest.raises(
        CheckpointError, match=r"foreign\.pth is not a checkpoint of recbole_tinykg"
    ):
        checkpoint.load(tmp_path / "foreign.pth")


def test_plain_pickle_is_refused_unread(tmp_path):
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError, match="no checkpoint, or a truncated one"):
        checkpoint.load(tmp_path / "old.pth")


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"recbole_tinykg": 1, "object": Malicious()}, tmp_path / "malicious.pth")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "malicious.pth")


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("the file's code was run",))


def test_newer_format_is_refused(tmp_path):
    torch.save({"recbole_tinykg": 99}, tmp_path / "new.pth")
    with pytest.raises(CheckpointError, match="has checkpoint format 99, this version reads 1"):
        checkpoint.load(tmp_path / "new.pth")


def test_recboles_own_checkpoint_names_convert(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # RecBole's Config reads it
    model = prepare("KGAT", "tiny", config_dict=tiny).model
    trainer = KGATTrainer(Config(type(model), "tiny", config_dict=tiny), model)
    trainer._save_checkpoint(0, verbose=False, saved_model_file=tmp_path / "stock.pth")
    with pytest.raises(CheckpointError, match="pickled RecBole checkpoint.*recbole-tinykg convert"):
        checkpoint.load(tmp_path / "stock.pth")


class FullDisk(io.FileIO):
    """A file on a disk with room for `room` bytes."""

    room = 20_000

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_full_disk_is_said_and_leaves_the_last_good_file(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "open", lambda path, mode: FullDisk(path, "w"), raising=False)
    with pytest.raises(
        CheckpointError, match="run.pth cannot be written: No space left.*make space"
    ):
        checkpoint.save(saved, STATE | {"epoch": 4})
    assert_still_good(saved)


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_interrupt_during_a_save_leaves_the_last_good_file(step, saved, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    class Interrupted(io.FileIO):
        write = interrupt

    if step == "write":
        monkeypatch.setattr(
            checkpoint, "open", lambda path, mode: Interrupted(path, "w"), raising=False
        )
    else:
        monkeypatch.setattr(os, {"sync": "fsync", "rename": "replace"}[step], interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved, STATE | {"epoch": 4})
    monkeypatch.undo()
    assert_still_good(saved)


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    for write in (checkpoint.check_writable, lambda path: checkpoint.save(path, STATE)):
        with pytest.raises(
            CheckpointError, match="cannot be written: .*--checkpoint_dir=<a folder"
        ):
            write(tmp_path / "file" / "saved" / "run.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_read_only_folder_is_said(saved):
    saved.parent.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot be written: Permission denied"):
            checkpoint.check_writable(saved)
    finally:
        saved.parent.chmod(0o700)


def test_check_of_a_writable_folder_leaves_only_the_folder(tmp_path):
    checkpoint.check_writable(tmp_path / "new" / "run.pth")
    assert list((tmp_path / "new").iterdir()) == []


def test_temporary_file_of_a_killed_process_is_replaced(saved):
    saved.with_name("run.pth.tmp").write_bytes(b"half a checkpoint")
    checkpoint.save(saved, STATE)
    assert_still_good(saved)


@pytest.mark.parametrize("model", ["TinyKGAT", "KGAT", "RippleNet"])
def test_model_scores_as_before_after_a_file(model, tiny, tmp_path):
    trained, fresh = (prepare(model, "tiny", config_dict=tiny) for _ in range(2))
    trained.trainer.fit(trained.train_data, saved=False)
    checkpoint.save(tmp_path / "model.pth", checkpoint.model_state(trained.model))
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    batch = next(iter(trained.test_data))[0]
    before = scores(fresh.model, batch)
    checkpoint.restore_model(fresh.model, state)
    assert torch.equal(scores(fresh.model, batch), scores(trained.model, batch))
    assert not torch.equal(scores(fresh.model, batch), before)


@torch.no_grad()
def scores(model, batch):
    """Pair scores, for which stock KGAT runs its whole graph: not those it cached."""
    batch.update(type(batch)({model.ITEM_ID: torch.ones(len(batch), dtype=torch.int64)}))
    model.eval()
    return model.predict(batch)


def through_a_file(model, folder):
    checkpoint.save(folder / "model.pth", checkpoint.model_state(model))
    return checkpoint.load(folder / "model.pth")


def test_ripple_sets_stay_a_defaultdict(tiny, tmp_path):
    experiment = prepare("RippleNet", "tiny", config_dict=tiny)
    state = through_a_file(experiment.model, tmp_path)
    assert type(state["other_parameter"]["ripple_set"]) is dict
    checkpoint.restore_model(experiment.model, state)
    assert experiment.model.ripple_set.default_factory is list


def test_evaluation_caches_are_neither_saved_nor_kept(tiny, tmp_path):
    experiment = prepare("KGAT", "tiny", config_dict=tiny)
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    assert experiment.model.restore_user_e is not None
    state = through_a_file(experiment.model, tmp_path)
    assert list(state["other_parameter"]) == ["A_in"]
    checkpoint.restore_model(experiment.model, state)
    assert experiment.model.restore_user_e is None
