"""A folder with every broken file that the troubleshooting page describes."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.datasets import TINY_RUN, write_tiny_dataset
from helpers.stock import train_stock
from recbole_tinykg import run_recbole_tinykg
from recbole_tinykg.checkpoint import checkpoint
from recbole_tinykg.commands.convert import convert

SETTINGS = {**TINY_RUN, "data_path": "data", "epochs": 1}


def write_troubled_folder(folder: Path) -> None:
    """Fill `folder` with data sets, checkpoints and files, most of them broken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _write_data(Path("data"))
        _write_files()
        _write_checkpoints(Path("saved"))


def _write_data(data: Path) -> None:
    write_tiny_dataset(data)
    write_tiny_dataset(data, "plain")
    for suffix in ("kg", "link"):
        (data / "plain" / f"plain.{suffix}").unlink()
    write_tiny_dataset(data, "full")
    pairs = [f"u{user}\ti{item}\t5\t{item}" for user in range(3) for item in range(36)]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (data / "full" / "full.inter").write_text("\n".join([header, *pairs]) + "\n")


def _write_files() -> None:
    Path("empty.txt").write_text("\n")
    Path("latin1.txt").write_bytes("é".encode("latin-1"))
    Path("list.yaml").write_text("- epochs\n- 5\n")
    Path("broken.yaml").write_text("layers: [64\n")
    Path("notes.txt").write_text("no checkpoint\n")


def _write_checkpoints(saved: Path) -> None:
    for model in ("TinyKGAT", "BPR", "RippleNet"):
        own = {} if model == "TinyKGAT" else {"detect_anomaly": False}
        run_recbole_tinykg(model, "tiny", config_dict={**SETTINGS, **own, "run_name": model})
    best, last = saved / "TinyKGAT.pth", saved / "TinyKGAT-last.pth"
    *_, pickled = train_stock("KGAT", {**SETTINGS, "checkpoint_dir": "recbole"})
    shutil.copy(pickled, saved / "KGAT-of-RecBole.pth")
    convert(pickled, saved / "converted.pth")
    shutil.copy(last, saved / "alone-last.pth")
    content = best.read_bytes()
    (saved / "truncated.pth").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(best) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    place = largest.header_offset + largest.file_size // 2
    flipped = bytes([content[place] ^ 1])
    (saved / "damaged.pth").write_bytes(content[:place] + flipped + content[place + 1 :])
    torch.save({"weights": torch.zeros(3)}, saved / "other.pth")
    state = torch.load(best, weights_only=True)
    torch.save({**state, "recbole_tinykg": 2}, saved / "newer.pth")
    _save_changed(saved / "stopped-last.pth", last, {"cur_step": 11})
    shutil.copy(best, saved / "stopped.pth")
    _save_changed(saved / "misnamed.pth", last, {"cur_step": 1})
    broken = checkpoint.load(best)
    broken["state_dict"]["user_embedding.weight"].fill_(torch.nan)
    torch.save(broken, saved / "diverged.pth")


def _save_changed(target: Path, source: Path, changes: dict[str, Any]) -> None:
    torch.save({**torch.load(source, weights_only=True), **changes}, target)
