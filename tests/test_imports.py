"""The import rule: a module imports only modules above it, heavy packages only where they belong.

What comes first knows least: quantizer and compressed functions could leave as a library of their
own, because nothing above `compat` knows RecBole.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "recbole_tinykg"
ROOT = Path(__file__).parent.parent / PACKAGE
ORDER = [
    "errors",
    "checkpoint",
    "ops",
    "memory",
    "graph",
    "quantization",
    "functional",
    "embedding",
    "saved_tensors",
    "compat",
    "model",
    "config",
    "data",
    "trainer",
    "quick_start",
    "serving",
    "commands",
]
SOURCES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in ROOT.rglob("*.py")}


def imported_names(source: str) -> Iterator[str]:
    """Every module a source may import, in full; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this package"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(name: str, source: str) -> list[str]:
    """What the module `name`, such as `ops` or `model/kgat`, imports against the rule."""
    rank = ORDER.index(name.split("/")[0])
    found = []
    for imported in set(imported_names(source)):
        top, *rest = imported.split(".")
        upward = top == PACKAGE and rest and rest[0] in ORDER and ORDER.index(rest[0]) > rank
        recbole = top == "recbole" and rank < ORDER.index("compat")
        ray = top == "ray" and not name.startswith("commands/tune/")
        if upward or recbole or ray:
            found.append(imported)
    return sorted(found)


def writes_torch_ops(source: str) -> bool:
    """Whether a source reaches for `torch.ops.recbole_tinykg`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return any(ast.unparse(node) == f"torch.ops.{PACKAGE}" for node in nodes)


def test_every_module_has_its_place_in_the_order():
    assert {name.split("/")[0] for name in SOURCES} == {*ORDER, "__init__"}


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"__init__"}))
def test_module_imports_only_what_is_above_it(name):
    assert violations(name, SOURCES[name].read_text()) == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("ops", "from recbole_tinykg import quantization", ["recbole_tinykg.quantization"]),
        ("embedding", "def f():\n    import recbole.data", ["recbole.data"]),
        ("trainer", "from recbole.trainer import Trainer", []),
        ("model/kgat", "from recbole_tinykg.graph.attention import AttentionGraph", []),
        ("commands/train", "import ray", ["ray"]),
        ("commands/tune/engine", "import ray", []),
    ],
)
def test_the_rule_tells_right_from_wrong(name, source, expected):
    assert violations(name, source) == expected


def test_only_ops_writes_torch_ops():
    writers = {
        name.split("/")[0] for name in SOURCES if writes_torch_ops(SOURCES[name].read_text())
    }
    assert writers == {"ops"}


def test_importing_the_package_imports_neither_recbole_nor_ray():
    code = (
        f"import sys, {PACKAGE}; print(sorted({{'recbole', 'ray', 'torch'}} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_the_quantizer_needs_neither_recbole_nor_ray():
    code = (
        "import sys; sys.modules.update(recbole=None, ray=None)\n"
        f"import torch, {PACKAGE}, {PACKAGE}.embedding\n"
        f"print({PACKAGE}.quantize(torch.ones(2, 3)).dequantize().sum().item())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "6.0\n"
