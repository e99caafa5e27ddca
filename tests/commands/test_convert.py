"""A checkpoint that RecBole saved becomes one of ours with the same scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.data.interaction import Interaction

from helpers.stock import DETERMINISTIC, train_stock
from recbole_tinykg import load_data_and_model
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.convert import convert
from recbole_tinykg.commands.evaluate import evaluate
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.model import MODELS


@pytest.fixture
def stock(tiny):
    """KGAT, trained."""
    return train_stock("KGAT", tiny)


def scores(model, users=None) -> torch.Tensor:
    """Scores of users, by default all, with every item."""
    model.eval()
    users = torch.arange(model.n_users) if users is None else users
    with torch.no_grad():
        try:
            return model.full_sort_predict(Interaction({"user_id": users}))
        except NotImplementedError:  # RecBole's way: every pair by itself
            items = torch.arange(model.n_items).repeat(len(users))
            pairs = {"user_id": users.repeat_interleave(model.n_items), "item_id": items}
            return model.predict(Interaction(pairs))


@pytest.mark.parametrize("name", [None, "TinyKGAT", "KGAT"])
def test_convert_keeps_every_score(name, stock, tmp_path):
    trainer, test_data, source = stock
    target = tmp_path / "ours.pth"
    assert convert(source, target, name) == (name or "TinyKGAT")
    _, model, *_ = load_data_and_model(target)
    assert type(model).__name__ == (name or "TinyKGAT")
    expected, actual = scores(trainer.model), scores(model)
    # the same sums in another order: float32 rounding of scores of order one
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    metrics = trainer.evaluate(test_data, load_best_model=False)
    assert evaluate(target)["test"] == pytest.approx(dict(metrics), abs=1e-9)


@pytest.mark.parametrize("stock_name", sorted(name.removeprefix("Tiny") for name in MODELS))
def test_every_twin_takes_its_stock_models_checkpoint(stock_name, tiny, tmp_path):
    trainer, _, source = train_stock(
        stock_name, {**tiny, **DETERMINISTIC.get(stock_name, {}), "epochs": 1}
    )
    target = tmp_path / "ours.pth"
    assert convert(source, target) == f"Tiny{stock_name}"
    _, _, _, train_data, _, _ = loaded = load_data_and_model(target)
    users = train_data._dataset.inter_feat["user_id"].unique()
    expected, got = (scores(model, users) for model in (trainer.model, loaded[1]))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_convert_command_says_what_it_wrote(stock, capsys):
    *_, source = stock
    assert cli.main(["convert", f"--checkpoint={source}", "--output=ours.pth"]) == 0
    assert capsys.readouterr().out == f"ours.pth: TinyKGAT, converted from {source}\n"
    torch.load("ours.pth", weights_only=True)


def test_pickled_checkpoint_is_refused_with_the_remedy(stock, capsys):
    *_, source = stock
    assert cli.main(["evaluate", f"--checkpoint={source}"]) == 2
    err = capsys.readouterr().err
    assert "pickled RecBole checkpoint" in err and f"convert --checkpoint={source}" in err


def test_convert_refuses_other_models_and_other_files(stock, tmp_path):
    *_, source = stock
    target = tmp_path / "ours.pth"
    with pytest.raises(CheckpointError, match="is of model KGAT; got BPR"):
        convert(source, target, "BPR")
    with pytest.raises(CheckpointError, match="does not fit"):
        convert(source, target, changes={"embedding_size": 4})
    assert not target.exists()
    convert(source, target)
    for content in (b"", b"no checkpoint", Path(target).read_bytes()):
        other = tmp_path / "other.pth"
        other.write_bytes(content)
        with pytest.raises(
            CheckpointError, match="not a checkpoint that RecBole saved|ours already"
        ):
            convert(other, tmp_path / "again.pth")
