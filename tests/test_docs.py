"""The commands that the guides show run, in the order of the page, and print what the page says.

A block that begins with ```` ```console ```` holds commands, each after `$ `, and their output. A
line `...` stands for lines left out, `…` for words; numbers may differ, words may not. Blocks below
a line `<!-- slow ... -->` take minutes or depend on the machine: they are run when `DOCS_SLOW=1` is
set, and otherwise only checked for flags and parameters that exist. Links between pages and to
files must lead somewhere, and what Python blocks import from the package must be there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from recbole_tinykg.commands import cli
from recbole_tinykg.config import own_keys
from recbole_tinykg.errors import ConfigurationError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
FENCE = re.compile(r"(<!-- slow.*?-->\n)?```console\n(.*?)```", re.DOTALL)
LIMIT_SECONDS = 3600 if os.environ.get("DOCS_SLOW") else 300


class Command(NamedTuple):
    """A command of a page, and the output that the page shows."""

    line: str
    output: str
    is_slow: bool


def commands(text: str) -> list[Command]:
    """The commands of a page."""
    found = []
    for slow, block in FENCE.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = re.sub(r"\\\n\s*", "", part).partition("\n")
            found.append(Command(line, output, bool(slow)))
    return found


def pattern(output: str) -> re.Pattern[str]:
    """What real output has to contain for a page's output to be true."""
    lines = []
    for line in output.strip("\n").splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        words = [word_pattern(word) for word in line.split()]
        lines.append(r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n")
    return re.compile("".join(lines))


def word_pattern(word: str) -> str:
    """A word as it is, but any number for a number; a line of dashes has any length.

    The word `…` is the rest of a line.
    """
    if word == "…":
        return ".*"
    if set(word) <= {"-"} and len(word) > 2:
        return "-+"
    parts = NUMBER.split(word)
    return NUMBER.pattern.join(map(re.escape, parts))


def arguments(line: str) -> list[str]:
    """The arguments of a command of ours, without what a shell does with its output."""
    return shlex.split(re.split(r" 2>&1| \| ", line)[0])[1:]


def is_ours(line: str) -> bool:
    return line.split()[0] == "recbole-tinykg"


def pages_with_commands() -> list[Path]:
    """All but the page that has a test of its own, `test_troubleshooting.py`."""
    return [p for p in PAGES if commands(p.read_text()) and p.stem != "troubleshooting"]


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """One in which a shell finds `recbole-tinykg`, that of this checkout."""
    program = tmp_path / "bin" / "recbole-tinykg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m recbole_tinykg.commands.cli "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "120"}


@pytest.mark.timeout(LIMIT_SECONDS * 4)
@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.stem)
def test_commands_of_a_page_end_as_it_says(page, environment, empty_working_folder):
    for command in commands(page.read_text()):
        if command.is_slow and not os.environ.get("DOCS_SLOW"):
            continue
        run = subprocess.run(
            ["bash", "-c", command.line],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        expected = pattern(command.output)
        assert expected.search(run.stdout), f"$ {command.line}\n{run.stdout}"
        assert (run.returncode == 0) == ("recbole-tinykg: error:" not in command.output)


def every_command() -> Iterator[tuple[str, str]]:
    for page in pages_with_commands():
        for command in commands(page.read_text()):
            if is_ours(command.line) and "error:" not in command.output:
                yield page.stem, command.line


def check_arguments(line: str) -> None:
    """Raises ConfigurationError unless the command of a line has its flags and parameters."""
    argv = arguments(line)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
    command = cli._command(name)
    if "--help" not in argv:
        _, parameters = cli._split(command, cli._join(command, argv))
        given = dict.fromkeys(p.removeprefix("--").partition("=")[0] for p in parameters)
        own_keys.refuse_unknown(given, given)


@pytest.mark.parametrize(("page", "line"), list(every_command()))
def test_flags_and_parameters_of_a_command_exist(page, line):
    check_arguments(line)


@pytest.mark.parametrize("line", ["recbole-tinykg plan --measur=True", "recbole-tinykg pln"])
def test_a_guide_with_a_flag_that_is_none_would_be_noticed(line):
    with pytest.raises(ConfigurationError):
        check_arguments(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_python_blocks_import_is_there(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for line in re.findall(r"^(?:from|import) recbole_tinykg.*", block, re.MULTILINE):
            exec(line, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        ("recall@10  0.08", "recall@10     0.0935\n", True),
        ("recall@10  0.08", "recall@10     nan\n", False),
        ("a\n...\nb 1.00 MiB", "a\nx\ny\nb  12.50 MiB\n", True),
        ("a\nb", "a\nx\nb\n", False),
        ("--------", "-----\n", True),
        ("1/4.1 x", "1/270.3 x\n", True),
        ("in …\nb", "in /a/folder or so\nb\n", True),
    ],
)
def test_only_numbers_may_differ(shown, printed, is_same):
    assert bool(pattern(shown).search(printed)) == is_same
