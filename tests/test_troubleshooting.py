"""The troubleshooting page is true: its commands end in its lines, and no message is left out."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.troubled import write_troubled_folder
from recbole_tinykg.commands import cli
from recbole_tinykg.commands.catalogue import COMMANDS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
GUIDES = ("compare.md", "plan.md", "tune.md", "recommend.md")
ERRORS = {"UserError", "ConfigurationError", "CheckpointError", "NativeLibraryError"}


class Example(NamedTuple):
    command: str
    line: str


def examples(page: str) -> list[Example]:
    """Commands of the page's `console` blocks, each with the line below it."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        lines = iter(block.splitlines())
        for command, line in zip(lines, lines, strict=True):
            assert command.startswith("$ recbole-tinykg") and not line.startswith("$"), command
            found.append(Example(command.removeprefix("$ "), line))
    return found


EXAMPLES = examples(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def troubled_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("troubled")
    write_troubled_folder(folder)
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.command)
def test_the_command_ends_in_the_line(example, troubled_folder, monkeypatch, capsys):
    monkeypatch.chdir(troubled_folder)
    before = {path for path in (troubled_folder / "saved").iterdir()}
    assert cli.main(shlex.split(example.command)[1:]) == 2
    out, err = capsys.readouterr()
    expected = ".*".join(map(re.escape, example.line.split("…")))
    *log, line = err.splitlines()
    assert re.fullmatch(expected, line), err
    assert out == "" and not any("Traceback" in other for other in log)
    assert before == set((troubled_folder / "saved").iterdir())


def messages() -> list[tuple[str, str]]:
    """Place and pattern of every message that the package raises its own errors with."""
    found = []
    for path in (ROOT / "recbole_tinykg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = getattr(node, "exc", None)
            if not isinstance(node, ast.Raise) or not isinstance(call, ast.Call):
                continue
            is_ours = getattr(call.func, "id", None) in ERRORS
            if is_ours and isinstance(call.args[0], ast.Constant | ast.JoinedStr):
                name = path.relative_to(ROOT / "recbole_tinykg").as_posix()
                found.append((f"{name}:{node.lineno}", pattern(call.args[0])))
    return found


def pattern(message: ast.expr) -> str:
    """What the page may show of a message: some text in place of its values.

    Values at its ends are left out, and others are bounded: a page is one long line here.
    """
    if isinstance(message, ast.Constant):
        return re.escape(message.value)
    assert isinstance(message, ast.JoinedStr)
    texts = [p.value if isinstance(p, ast.Constant) else None for p in message.values]
    first, *rest = [i for i, text in enumerate(texts) if text is not None]
    inside = texts[first : [first, *rest][-1] + 1]
    return "".join(".{0,300}?" if text is None else re.escape(text) for text in inside)


@pytest.mark.parametrize(("place", "expected"), messages())
def test_no_message_is_left_out(place, expected):
    texts = [PAGE, *(ROOT / "docs" / guide for guide in GUIDES)]
    pages = [" ".join(text.read_text(encoding="utf-8").split()) for text in texts if text.exists()]
    assert any(re.search(expected, page) for page in pages), expected


def test_every_command_has_a_place():
    page = PAGE.read_text(encoding="utf-8")
    words = {"compare": "compare.md", "plan": "plan.md", "tune": "tune.md"}
    for command in COMMANDS:
        if command != "train":
            assert words.get(command, f"recbole-tinykg {command}") in page
