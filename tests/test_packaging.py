"""What is shipped is complete, the lock is exact, and a failing build says one sentence."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import recbole_tinykg

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(file: str) -> dict[str, str]:
    """Version by package of a lock file; fails on any line that is not `name==version`."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and line[0] != "#"]
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)(?: ; .+)?", line) for line in lines]
    assert lines and all(pairs), f"{file}: every line is `name==version`, perhaps with a marker"
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs}


def shipped(folder: str) -> set[str]:
    """Files below a folder of the checkout, relative to the checkout."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    names = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert names
    return names


@pytest.fixture
def build_script(monkeypatch):
    """The functions of setup.py, without running it."""
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    for name in ("CXX", "CUDA_HOME", "RECBOLE_TINYKG_CUDA"):
        monkeypatch.delenv(name, raising=False)
    return runpy.run_path("setup.py")


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """An sdist of the checkout and the wheel that is built from that sdist."""
    pytest.importorskip("build", reason="the build front end belongs to the dev requirements")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_the_lock_satisfies_what_the_package_declares(line):
    requirement = Requirement(line)
    if requirement.name != "torch":  # installed before the lock, for CPU or CUDA
        assert requirement.specifier.contains(locked("requirements.lock")[requirement.name])


def test_the_locks_pin_what_the_extras_name_and_do_not_overlap():
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    extras = PROJECT["optional-dependencies"]
    assert {Requirement(line).name for line in extras["tune"]} <= run.keys()
    assert {canonicalize_name(line) for line in extras["dev"]} <= dev.keys()
    assert run["recbole"] == "1.2.1"
    assert not run.keys() & dev.keys() and not {"torch", "recbole-tinykg"} & (run | dev).keys()


def test_the_console_script_exists():
    module, function = PROJECT["scripts"]["recbole-tinykg"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_changelog_knows_this_version():
    assert f"## [{recbole_tinykg.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_sdist_holds_sources_properties_and_tests(archives):
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert shipped("csrc") | shipped("properties") | shipped("tests") <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_holds_properties_and_native_library_for_any_python(archives):
    assert re.search(r"-py3-none-(linux|macosx)_\w+\.whl$", archives[1].name)
    names = set(zipfile.ZipFile(archives[1]).namelist())
    assert {f"recbole_tinykg/{name}" for name in shipped("properties")} <= names
    assert "recbole_tinykg/_native_cpu.so" in names
    modules = {name for name in shipped("recbole_tinykg") if name.endswith(".py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_the_unpacked_wheel_finds_its_native_library(archives, tmp_path):
    zipfile.ZipFile(archives[1]).extractall(tmp_path)
    code = "from recbole_tinykg import ops; print(*ops.native_status())"
    paths = [str(tmp_path), os.environ["PYTHONPATH"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.stdout == f"True {tmp_path / 'recbole_tinykg/_native_cpu.so'}\n", run.stderr


def test_a_build_without_compiler_ends_with_one_sentence(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(tmp_path)]
    run = subprocess.run(
        command, cwd=ROOT, env={**environment, "PATH": ""}, capture_output=True, text=True
    )
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.splitlines()[-1].startswith("error: building recbole_tinykg needs a C++20")
    assert "Traceback" not in run.stderr


def test_a_build_with_old_setuptools_ends_with_one_sentence(tmp_path):
    (tmp_path / "setuptools.py").write_text("__version__ = '75.8.0'")
    paths = [str(tmp_path), os.environ["PYTHONPATH"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "setup.py", "build_ext"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    sentence = "error: building recbole_tinykg needs setuptools 77.0.3 or newer and found 75.8.0"
    assert run.returncode == 1 and run.stderr.startswith(sentence) and run.stderr.count("\n") == 1


def test_torch_is_found_where_import_cannot_see_it(build_script, monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    version = tmp_path / "torch" / "version.py"
    version.write_text("__version__ = '2.10.0'\ncuda = None\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert build_script["find_torch"]() == (tmp_path / "torch", False)
    version.write_text("__version__ = '3.0.1+cu140'\ncuda = '14.0'\n")
    assert build_script["find_torch"]() == (tmp_path / "torch", True)


@pytest.mark.parametrize(("version", "said"), [(None, ""), ("2.9.1", " and found 2.9.1")])
def test_missing_or_old_torch_is_one_sentence_with_the_remedy(
    build_script, monkeypatch, tmp_path, version, said
):
    if version:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "version.py").write_text(f"__version__ = {version!r}\ncuda = None\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SystemExit, match=f"needs PyTorch 2.10 or newer{said}; run `pip install"):
        build_script["find_torch"]()


def test_cuda_sources_are_built_where_they_can_be(build_script, monkeypatch, tmp_path, capsys):
    find_nvcc = build_script["find_nvcc"]
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert (find_nvcc(False), find_nvcc(True)) == (None, str(nvcc))
    monkeypatch.setenv("RECBOLE_TINYKG_CUDA", "1")
    assert find_nvcc(False) == str(nvcc)
    monkeypatch.setenv("RECBOLE_TINYKG_CUDA", "0")
    assert find_nvcc(True) is None
    assert capsys.readouterr().err == ""


def test_missing_nvcc_is_said_and_stops_only_who_asked(build_script, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    assert build_script["find_nvcc"](True) is None
    assert capsys.readouterr().err.startswith("warning: PyTorch has CUDA but there is no nvcc")
    monkeypatch.setenv("RECBOLE_TINYKG_CUDA", "1")
    with pytest.raises(SystemExit, match="needs nvcc and found none; install the CUDA toolkit"):
        build_script["find_nvcc"](False)
