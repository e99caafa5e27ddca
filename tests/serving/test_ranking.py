"""`recommend` gives RecBole's own top k, and paths that an enumeration of all paths finds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_scores, full_sort_topk

import recbole_tinykg
from helpers.datasets import write_tiny_dataset
from helpers.stock import DETERMINISTIC, train_stock
from recbole_tinykg import load_data_and_model
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.convert import convert
from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.model import MODELS
from recbole_tinykg.serving import ranking, recommend

STOCK_NAMES = sorted(name.removeprefix("Tiny") for name in MODELS)


def as_dict(results) -> dict[str, list[str]]:
    return {result.user: [own.item for own in result.items] for result in results}


@pytest.mark.parametrize("stock_name", STOCK_NAMES)
def test_agrees_with_recboles_own_utilities_on_its_own_checkpoint(stock_name, tiny):
    settings = DETERMINISTIC.get(stock_name, {})
    trainer, test_data, source = train_stock(stock_name, {**tiny, **settings, "epochs": 1})
    dataset, ids = test_data.dataset, np.array([7, 3, 20, 1])
    tokens = dataset.id2token("user_id", ids)
    expected, items = full_sort_topk(ids, trainer.model, test_data, 6)
    for name in (f"Tiny{stock_name}", stock_name):
        convert(source, "ours.pth", name)
        results = list(recommend("ours.pth", tokens, k=6, seen="train,valid"))
        assert [result.user for result in results] == tokens.tolist()
        got = [[own.item for own in result.items] for result in results]
        assert got == dataset.id2token("item_id", items.numpy()).tolist()
        scores = torch.tensor([[own.score for own in result.items] for result in results])
        torch.testing.assert_close(scores, expected.detach(), rtol=1e-5, atol=1e-6)


def test_every_score_is_recboles(tiny):
    trainer, test_data, source = train_stock("KGCN", {**tiny, "epochs": 1})
    convert(source, "ours.pth")
    dataset = test_data.dataset
    ids = np.arange(1, dataset.user_num)
    expected = full_sort_scores(ids, trainer.model, test_data)
    for row, result in zip(expected, recommend("ours.pth", k=35, seen="train,valid"), strict=True):
        left = row[row > -np.inf]
        assert len(result.items) == len(left)
        own = {dataset.token2id("item_id", own.item): own.score for own in result.items}
        for item, score in own.items():
            assert score == pytest.approx(float(row[item]), rel=1e-5, abs=1e-6)


def interactions(data_path: Path) -> dict[str, set[str]]:
    lines = (data_path / "tiny" / "tiny.inter").read_text().splitlines()[1:]
    known: dict[str, set[str]] = {}
    for line in lines:
        user, item, *_ = line.split("\t")
        if int(item[1:]) < 36:  # the others are not linked, and RecBole drops them
            known.setdefault(user, set()).add(item)
    return known


def test_what_a_user_has_met_in_any_split_is_left_out(checkpoint, tiny_data_path):
    known = interactions(tiny_data_path)
    every = {f"i{i}" for i in range(36)}
    results = as_dict(recommend(checkpoint, k=35))
    assert results.keys() == known.keys()
    for user, items in results.items():
        assert len(items) == len(set(items))
        assert set(items) == every - known[user]


def test_seen_names_the_splits_that_are_left_out(checkpoint, tiny_data_path):
    _, _, _, *loaders = load_data_and_model(checkpoint)
    known = interactions(tiny_data_path)["u5"]
    dataset = loaders[0]._dataset
    user = dataset.token2id("user_id", "u5")
    own = {}
    for name, loader in zip(("train", "valid", "test"), loaders, strict=True):
        table = loader._dataset.inter_feat
        ids = table["item_id"][table["user_id"] == user].tolist()
        own[name] = set(dataset.id2token("item_id", ids).tolist())
    assert set().union(*own.values()) == known
    for names in (["train"], ["train", "valid"], ["test"], []):
        (result,) = recommend(checkpoint, ["u5"], k=36, seen=",".join(names) or "none")
        left_out = set().union(*(own[name] for name in names))
        assert {item.item for item in result.items} == {f"i{i}" for i in range(36)} - left_out


def test_users_come_in_the_order_given_and_once(checkpoint):
    everyone = as_dict(recommend(checkpoint, k=3))
    some = as_dict(recommend(checkpoint, ["u9", "u2", "u9"], k=3))
    assert list(some) == ["u9", "u2"]
    assert some == {user: everyone[user] for user in some}


def test_batches_bound_the_memory(checkpoint, monkeypatch):
    expected = as_dict(recommend(checkpoint, k=4))
    monkeypatch.setattr(ranking, "PAIRS_PER_BATCH", 1)
    sizes = []
    scores = ranking.item_scores

    def counted(model, dataset, users, config):
        sizes.append(len(users))
        return scores(model, dataset, users, config)

    monkeypatch.setattr(ranking, "item_scores", counted)
    results = recommend(checkpoint, k=4, config_dict={"eval_batch_size": 5 * 37})
    assert next(results).user and sizes == [5]  # nothing is computed before it is asked for
    assert sum(1 for _ in results) == 23 and sizes == [5, 5, 5, 5, 4]
    assert as_dict(recommend(checkpoint, k=4, config_dict={"eval_batch_size": 37})) == expected


@pytest.mark.parametrize("model", ["BPR", "CFKG", "TinyMKR", "ItemKNN", "Pop"])
def test_models_of_other_families_recommend_too(model, checkpoint_of):
    file = checkpoint_of(model)
    (result,) = recommend(file, ["u1"], k=3)
    assert len(result.items) == 3
    assert result.items[0].score >= result.items[1].score >= result.items[2].score
    with pytest.raises(ConfigurationError, match=f"paths must be 0 for {model}, which has no att"):
        recommend(file, ["u1"], paths=1)


def test_the_package_offers_the_function():
    assert recbole_tinykg.recommend is recommend


def test_a_diverged_model_is_said_to_be_one(checkpoint_of, tmp_path):
    state = torch.load(checkpoint_of("TinyKGAT"), weights_only=True)
    state["state_dict"]["user_embedding.weight"][:] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="got NaN: its training diverged"):
        list(recommend(tmp_path / "nan.pth", ["u1"]))


def test_other_data_of_the_same_shape_is_refused(checkpoint, tmp_path):
    write_tiny_dataset(tmp_path)
    file = tmp_path / "tiny" / "tiny.inter"
    lines = file.read_text().splitlines()
    lines[1:] = [line.replace("u0\t", "u1\t") if "u0" in line else line for line in lines[1:]]
    lines[1:] = [
        line.replace("u1\t", "u0\t", 1) if i < 12 else line for i, line in enumerate(lines[1:])
    ]
    swapped = lines[0:1] + lines[13:25] + lines[1:13] + lines[25:]
    file.write_text("\n".join(swapped) + "\n")
    with pytest.raises(CheckpointError, match="checkpoint does not fit, data set differs"):
        recommend(checkpoint, config_dict={"data_path": str(tmp_path)})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--users=u1,nobody"], "got 1 that are not: 'nobody'$"),
        (["--users=u99"], r"data set tiny .*; got 1 that are not: 'u99' \(did you mean u9\?\)"),
        (["--users=" + ",".join(f"x{i}" for i in range(8))], "got 8 .*'x4' and 3 more$"),
        (["--users=[u1,nobody]"], "got 1 that are not: 'nobody'$"),
        (["--users=[[PAD]]"], r"got 1 that are not: '\[PAD\]'"),
        (["--users=u1,,u2"], "--users must be tokens with commas between, .*; got 'u1,,u2'"),
        (["--users="], "--users must have a value; got ''"),
        (["--users=u1", "--users_file=x"], "--users must come without --users_file; got both"),
        (["--users_file=nowhere"], "--users_file nowhere cannot be read: No such file"),
        (["--users_file=binary"], "--users_file binary cannot be read: it is not UTF-8 text"),
        (["--users_file=empty"], "--users_file empty must have a user's token per line; got none"),
        (["--k=0"], "k must be an integer of 1 or more; got 0"),
        (["--k=ten"], "k must be an integer of 1 or more; got 'ten'"),
        (["--k=True"], "k must be an integer of 1 or more; got True"),
        (["--k=37"], "k must be at most 36, the number of items in the data set; got 37"),
        (["--paths=-1"], "paths must be an integer of 0 or more; got -1"),
        (["--seen=trian"], "seen must be all, none, or some of train,valid,test .*; got 'trian'"),
        (["--format=xml"], "--format must be one of table, csv, json; got 'xml'"),
        (["--output="], "--output must have a value; got ''"),
        (["--output=no/folder.csv"], "output no/folder.csv cannot be written: No such file"),
        (["--item_field=title"], "item_field needs the file .*tiny.item, and it is not there"),
        (["--model=KGAT"], "--model comes with the checkpoint; got 'KGAT'"),
        (["--user=u1"], r"--user is neither a flag .*"),
        (["--data_path=nowhere"], "dataset must be a folder under data_path"),
    ],
)
def test_wrong_input_is_one_line(flags, message, checkpoint, capsys):
    Path("binary").write_bytes(b"\xff\xfe")
    Path("empty").write_text("\n")
    assert cli.main(["recommend", f"--checkpoint={checkpoint}", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("recbole-tinykg: error: ") and err.count("\n") == 1
    assert re.search(message, err.rstrip("\n")), err


def test_other_wrong_input_is_one_line(titled, checkpoint_of, capsys):
    file, data_path = titled
    for flags, message in (
        ([], "--checkpoint must name a file; got none"),
        (["--checkpoint=nowhere.pth"], "nowhere.pth must be a checkpoint file; there is no such"),
        (
            [f"--checkpoint={file}", data_path, "--item_field=name"],
            "item_field must be a column of .*; got 'name', and there are item_id, title",
        ),
    ):
        assert cli.main(["recommend", *flags]) == 2
        assert re.search(message, capsys.readouterr().err)
    with pytest.raises(ConfigurationError, match="users must be a list of one token or more"):
        recommend(file, "u1")
    with pytest.raises(ConfigurationError, match="GRU4Rec, a sequential model, which reads more"):
        recommend(checkpoint_of("GRU4Rec", train_neg_sample_args=None, load_col=None))


def test_users_without_a_ripple_set_are_named(tiny):
    by_time = {"group_by": None, "order": "TO", "split": {"RS": [0.8, 0.1, 0.1]}}
    *_, source = train_stock("RippleNet", {**tiny, "epochs": 1, "eval_args": by_time})
    convert(source, "stock.pth", "RippleNet")
    message = r"training interactions for RippleNet; got 4 without: .*: train TinyRippleNet"
    with pytest.raises(ConfigurationError, match=message):
        recommend("stock.pth")
    assert len(list(recommend("stock.pth", ["u1", "u2"], paths=1))) == 2
    convert(source, "twin.pth")
    assert len(list(recommend("twin.pth", paths=1))) == 24
