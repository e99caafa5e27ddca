"""The plan of the package: folders in an order, each importing only those above it.

What comes first knows least: everything above `compat` knows PyTorch but not RecBole, and could
leave as a library of its own. Ray is known to `commands/tune` alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.processes import run_python

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
FOLDERS = sorted(path.parent for path in ROOT.rglob("__init__.py") if path.parent != ROOT)


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
    """What the module `name`, such as `errors` or `model/kgat`, imports against the rule."""
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


def module_of(imported: str) -> str | None:
    """The module or face (`config/__init__`) that an import of ours reads, as in `SOURCES`."""
    path = imported.removeprefix(f"{PACKAGE}.").replace(".", "/")
    return next((name for name in (path, f"{path}/__init__") if name in SOURCES), None)


def imported_modules(sources: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each module imports; of `from a import b`, b if it is a module, else a."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        found = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = [module_of(f"{node.module}.{alias.name}") for alias in node.names]
                found |= {module or module_of(node.module) for module in inner}
        graph[name] = found - {None, name}
    return graph


def writes_torch_ops(source: str) -> bool:
    """Whether a source reaches for `torch.ops.recbole_tinykg`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return any(ast.unparse(node) == f"torch.ops.{PACKAGE}" for node in nodes)


def test_every_folder_has_its_place_in_the_order():
    assert {name.split("/")[0] for name in SOURCES} == {*ORDER, "__init__"}


def test_the_top_level_fits_on_a_screen():
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    built = ("__pycache__", "properties")  # an installed package has the properties inside
    entries = {file.parts[0] for file in files if not {*built} & {*file.parts}}
    assert len([name for name in entries if not name.endswith(".so")]) <= 20


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_folder_says_what_is_in_it(folder):
    """Its docstring names every module and folder, and no more lines than one reads at once."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = {
        word for quoted in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", quoted)
    }
    assert {path.stem for path in folder.iterdir() if path.suffix == ".py"} - named == {"__init__"}
    assert {path.parent.name for path in folder.glob("*/__init__.py")} <= named
    assert len(text.splitlines()) <= 32


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"__init__"}))
def test_module_imports_only_what_is_above_it(name):
    assert violations(name, SOURCES[name].read_text()) == []


def test_no_module_imports_itself_in_a_circle():
    sources = {name: path.read_text() for name, path in SOURCES.items() if name != "__init__"}
    TopologicalSorter(imported_modules(sources)).prepare()


def test_a_circle_is_found():
    sources = {
        "config/config": f"from {PACKAGE}.config.parameters import read_literal",
        "config/parameters": f"from {PACKAGE}.config import config",
    }
    with pytest.raises(CycleError):
        TopologicalSorter(imported_modules(sources)).prepare()


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
    run = run_python(code)
    assert run.stdout == "[]\n"


def test_the_arithmetic_needs_neither_recbole_nor_ray():
    above = ", ".join(f"{PACKAGE}.{name}" for name in ORDER[: ORDER.index("compat")])
    code = (
        "import sys; sys.modules.update(recbole=None, ray=None)\n"
        f"import torch, {PACKAGE}, {above}\n"
        f"print({PACKAGE}.quantize(torch.ones(2, 3)).dequantize().sum().item())"
    )
    run = run_python(code)
    assert run.stdout == "6.0\n"
