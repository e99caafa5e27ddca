"""Tables, CSV and JSON lines hold what `recommend` returns, whole or not at all."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import sys
from pathlib import Path

from recbole_tinykg import recommend
from recbole_tinykg.commands import cli
from recbole_tinykg.serving import ranking


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
