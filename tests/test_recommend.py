"""`recommend` gives RecBole's own top k, and paths that an enumeration of all paths finds."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import write_tiny_dataset
from paths import EVERY_PATH, Names, is_close
from recbole.utils.case_study import full_sort_scores, full_sort_topk
from recboles import DETERMINISTIC, trained

import recbole_tinykg
from recbole_tinykg import load_data_and_model, run_recbole_tinykg
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.conversion import convert
from recbole_tinykg.commands.recommendation import ranking, recommend
from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.model import MODELS

HOSTS = sorted(name.removeprefix("Tiny") for name in MODELS)


@pytest.fixture(scope="module")
def checkpoint_of(tiny_data_path, tmp_path_factory):
    """Trains a model for an epoch, once per parameters, and returns its checkpoint."""
    made: dict[str, Path] = {}

    def checkpoint(model: str, **parameters) -> Path:
        key = f"{model} {parameters}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("saved") / "run.pth"
            settings = {
                "data_path": str(tiny_data_path),
                "epochs": 1,
                "train_batch_size": 64,
                "embedding_size": 8,
                "kg_embedding_size": 8,
                "topk": 5,
                "valid_metric": "MRR@5",
                "show_progress": False,
                "state": "ERROR",
                "gpu_id": "",
                "checkpoint_dir": str(made[key].parent),
                "run_name": "run",
                "compress_bits": 2,
            }
            if not model.startswith("Tiny"):
                settings["detect_anomaly"] = False
                del settings["compress_bits"]
            run_recbole_tinykg(model, "tiny", config_dict={**settings, **parameters})
        return made[key]

    return checkpoint


@pytest.fixture
def checkpoint(checkpoint_of) -> Path:
    return checkpoint_of("TinyKGAT")


def as_dict(results) -> dict[str, list[str]]:
    return {result.user: [own.item for own in result.items] for result in results}


@pytest.mark.parametrize("host", HOSTS)
def test_agrees_with_recboles_own_utilities_on_its_own_checkpoint(host, tiny):
    settings = DETERMINISTIC.get(host, {})
    trainer, test_data, source = trained(host, {**tiny, **settings, "epochs": 1})
    dataset, ids = test_data.dataset, np.array([7, 3, 20, 1])
    tokens = dataset.id2token("user_id", ids)
    expected, items = full_sort_topk(ids, trainer.model, test_data, 6)
    for name in (f"Tiny{host}", host):
        convert(source, "ours.pth", name)
        results = list(recommend("ours.pth", tokens, k=6, seen="train,valid"))
        assert [result.user for result in results] == tokens.tolist()
        got = [[own.item for own in result.items] for result in results]
        assert got == dataset.id2token("item_id", items.numpy()).tolist()
        scores = torch.tensor([[own.score for own in result.items] for result in results])
        torch.testing.assert_close(scores, expected.detach(), rtol=1e-5, atol=1e-6)


def test_every_score_is_recboles(tiny):
    trainer, test_data, source = trained("KGCN", {**tiny, "epochs": 1})
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


CASES = [
    ("KGAT", {}),
    ("TinyKGAT", {}),
    ("TinyKGAT", {"kg_reverse_r": True, "layers": [8, 4]}),
    ("KGCN", {}),
    ("TinyKGCN", {"n_iter": 1}),
    ("TinyKGCN", {"n_iter": 2, "neighbor_sample_size": 3, "kg_reverse_r": True}),
    ("KGNNLS", {"n_iter": 2}),
    ("TinyKGNNLS", {"neighbor_sample_size": 6}),
    ("RippleNet", {}),
    ("TinyRippleNet", {}),
    ("TinyRippleNet", {"repeat_first_hop": False, "n_memory": 8, "n_hop": 3}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_paths_are_the_best_of_all_paths(name, settings, checkpoint_of, tiny_data_path):
    file = checkpoint_of(name, **settings)
    _, model, _, train_data, *_ = load_data_and_model(file)
    dataset = train_data._dataset
    names = Names(dataset, tiny_data_path)
    enumerate_paths = EVERY_PATH[name.removeprefix("Tiny")]

    @functools.cache
    @torch.no_grad()
    def every_path(user, item):
        return enumerate_paths(model, dataset, names, dataset.token2id("user_id", user), item)

    num_found = 0
    for num_paths, seen in ((1, "all"), (3, "none"), (10**6, "all")):
        for result in recommend(file, ["u3", "u17"], k=9, paths=num_paths, seen=seen):
            for own in result.items:
                expected = every_path(result.user, own.item)
                best = sorted(expected.values(), reverse=True)[:num_paths]
                assert len(own.paths) == len(best)
                assert len({str(path) for path in own.paths}) == len(best)
                for path, score in zip(own.paths, best, strict=True):
                    assert is_close(path.score, score)
                    assert is_close(path.score, expected[str(path)])
                num_found += len(best)
    assert num_found > 30


def test_kgats_attention_is_the_softmax_of_its_equations(checkpoint_of):
    """The weights that paths multiply, from the embeddings (KGAT, equations 4 and 5)."""
    _, model, _, train_data, *_ = load_data_and_model(checkpoint_of("TinyKGAT"))
    edges = train_data._dataset.ckg_graph(form="coo", value_field="relation_id")
    nodes = torch.cat([model.user_embedding.weight, model.entity_embedding.weight]).double()
    scores = torch.full((len(nodes),) * 2, -torch.inf, dtype=torch.float64)
    for head, relation, tail in zip(edges.row, edges.data, edges.col, strict=True):
        matrix = model.trans_w.weight[relation].double().view(8, 8)
        query = torch.tanh(nodes[head] @ matrix + model.relation_embedding.weight[relation])
        known = scores[head, tail]
        scores[head, tail] = (0 if known.isinf() else known) + (nodes[tail] @ matrix) @ query
    has_edge = ~scores.isinf().all(1)
    crow, col, values = model.attention
    dense = torch.sparse_csr_tensor(crow, col, values, scores.shape).to_dense().double()
    expected = torch.softmax(scores[has_edge], dim=1).detach()
    torch.testing.assert_close(dense[has_edge], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def titled(tmp_path, checkpoint) -> tuple[Path, str]:
    """The checkpoint, and a data path with titles."""
    write_tiny_dataset(tmp_path)
    lines = ["item_id:token\ttitle:token_seq", *(f"i{i}\tFilm, the {i}th" for i in range(30))]
    (tmp_path / "tiny" / "tiny.item").write_text("\n".join(lines) + "\n")
    return checkpoint, f"--data_path={tmp_path}"


def test_table_names_users_items_titles_and_paths(titled, capsys):
    file, data_path = titled
    flags = [f"--checkpoint={file}", data_path, "--users=u3,u4", "--k=4", "--paths=1"]
    assert cli.main(["recommend", *flags, "--item_field=title"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    blocks = re.split(r"^user ", out, flags=re.MULTILINE)
    assert [block.split("\n")[0] for block in blocks] == ["", "u3", "u4"]
    (result,) = recommend(file, ["u3"], k=4, paths=1)
    ranked = re.findall(r"^ +(\d)  (i\d+) +(-?[\d.]+)(?:  (.*))?$", blocks[1], flags=re.MULTILINE)
    assert [item for _, item, *_ in ranked] == [own.item for own in result.items]
    for rank, (own, cells) in enumerate(zip(result.items, ranked, strict=True), start=1):
        number = int(own.item[1:])
        title = f"Film, the {number}th" if number < 30 else ""
        assert cells == (str(rank), own.item, f"{own.score:.4f}", title)
        for path in own.paths:
            shown = path.nodes[1] if not path.nodes[1].startswith("i") else "("
            assert f"{path.score:.2e}  {path.nodes[0]}" in blocks[1] and shown in blocks[1]


def test_csv_and_json_hold_what_the_function_returns(titled):
    file, data_path = titled
    flags = [f"--checkpoint={file}", data_path, "--k=4", "--paths=2", "--item_field=title"]
    for name in ("a.csv", "a.jsonl"):
        assert cli.main(["recommend", *flags, f"--output={name}"]) == 0
    expected = [
        (result.user, rank, own.item, own.score, [(path.score, path) for path in own.paths])
        for result in recommend(file, k=4, paths=2)
        for rank, own in enumerate(result.items, start=1)
    ]
    with open("a.csv", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(expected) == 24 * 4
    assert set(rows[0]) >= {"user", "rank", "item", "score", "title", "path_1", "path_2_score"}
    for row, (user, rank, item, score, paths) in zip(rows, expected, strict=True):
        assert (row["user"], int(row["rank"]), row["item"]) == (user, rank, item)
        assert float(row["score"]) == score
        assert row["title"] == (f"Film, the {item[1:]}th" if int(item[1:]) < 30 else "")
        for i, (path_score, path) in enumerate(paths, start=1):
            assert float(row[f"path_{i}_score"]) == path_score
            assert re.sub(r" \(Film, the \d+th\)", "", row[f"path_{i}"]) == str(path)
    users = [json.loads(line) for line in Path("a.jsonl").read_text(encoding="utf-8").splitlines()]
    items = [own for user in users for own in user["items"]]
    for own, (*_, item, score, paths) in zip(items, expected, strict=True):
        assert (own["item"], own["score"]) == (item, score)
        texts = [(path["score"], path["nodes"]) for path in own.get("paths", [])]
        assert texts == [(path_score, list(path.nodes)) for path_score, path in paths]


def test_users_of_a_file_and_the_format_of_a_name(checkpoint, capsys):
    Path("users.txt").write_text("u7\n\n u2 \n")
    base = ["recommend", f"--checkpoint={checkpoint}", "--users_file=users.txt", "--k=2"]
    assert cli.main([*base, "--format=csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "user,rank,item,score"
    assert [line.split(",")[0] for line in lines[1:]] == ["u7", "u7", "u2", "u2"]
    assert cli.main([*base, "--output=x.csv", "--format=json"]) == 0
    assert [json.loads(line)["user"] for line in Path("x.csv").read_text().splitlines()] == [
        "u7",
        "u2",
    ]


def test_an_interrupted_file_leaves_the_old_one(checkpoint, monkeypatch):
    Path("out.csv").write_text("old")
    calls = itertools.count()
    scores = ranking.item_scores

    def interrupted(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return scores(*args)

    monkeypatch.setattr(ranking, "item_scores", interrupted)
    monkeypatch.setattr(ranking, "PAIRS_PER_BATCH", 1)
    flags = [f"--checkpoint={checkpoint}", "--output=out.csv", "--eval_batch_size=100"]
    assert cli.main(["recommend", *flags]) == 130
    assert Path("out.csv").read_text() == "old"
    assert [file.name for file in Path().iterdir()] == ["out.csv"]


def test_a_reader_that_leaves_early_hears_no_complaint(checkpoint, monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert cli.main(["recommend", f"--checkpoint={checkpoint}", "--users=u1"]) == 0
    assert capfd.readouterr() == ("", "")


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
        (["--users=u99"], r"data set tiny .*; got 1 that are not: 'u99' \(did you mean 'u9'\?\)"),
        (["--users=" + ",".join(f"x{i}" for i in range(8))], "got 8 .*'x4' and 3 more$"),
        (["--users=[PAD]"], r"got 1 that are not: '\[PAD\]'"),
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
    *_, source = trained("RippleNet", {**tiny, "epochs": 1, "eval_args": by_time})
    convert(source, "stock.pth", "RippleNet")
    message = r"training interactions for RippleNet; got 4 without: .*: train TinyRippleNet"
    with pytest.raises(ConfigurationError, match=message):
        recommend("stock.pth")
    assert len(list(recommend("stock.pth", ["u1", "u2"], paths=1))) == 2
    convert(source, "twin.pth")
    assert len(list(recommend("twin.pth", paths=1))) == 24
