"""How the CUDA library is built and found, as far as a machine without a GPU can tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_tinykg import ops
from recbole_tinykg.errors import NativeLibraryError
from recbole_tinykg.ops import registration

ROOT = Path(__file__).parents[2]
KNOWN = "75 80 86 89 90 100"
FAKE_COMPILER = """#!/bin/sh
if [ "$1" = --list-gpu-arch ]; then printf 'compute_%s\\n' $KNOWN; exit; fi
echo "$@" >> "$LOG"
while [ "$1" != -o ]; do shift; done
touch "$2"
"""


@pytest.fixture
def forget_libraries():
    """Clear the cache of loaded libraries before and after a test that pretends to have a GPU."""
    registration._load_native_once.cache_clear()
    yield
    registration._load_native_once.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_no_cuda_library_is_asked_for():
    assert ops.native_status("cuda") == (False, "PyTorch sees no CUDA device")
    ops.require_native()
    with pytest.raises(NativeLibraryError, match="CUDA kernels are required but PyTorch sees no"):
        ops.require_native("cuda")


def test_with_a_gpu_its_library_is_required(forget_libraries, monkeypatch, tmp_path):
    kernels, path, remedy = registration._NATIVE["cuda"]
    missing = tmp_path / path.name
    monkeypatch.setitem(registration._NATIVE, "cuda", (kernels, missing, remedy))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    expected = f"native CUDA kernels are required but {missing} does not exist; build it with"
    with pytest.raises(NativeLibraryError, match=re.escape(expected)) as error:
        ops.require_native()
    assert str(error.value).endswith("and nvcc on PATH")
    ops.require_native("cpu")


def test_cpu_operators_ask_for_no_gpu():
    """Otherwise CUDA would start before RecBole sets CUDA_VISIBLE_DEVICES."""
    script = """
import torch
def refuse(): raise AssertionError("asked for a GPU")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = refuse
from recbole_tinykg import ops
ops.quantize(torch.ones(2, 3), torch.tensor([1, 2]), bits=2)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def build(folder, **environment):
    """Run setup.py with compilers that only note their arguments."""
    for name in ("nvcc", "cxx"):
        (folder / name).write_text(FAKE_COMPILER)
        (folder / name).chmod(0o755)
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}", "CXX": str(folder / "cxx")}
    environment |= {"LOG": str(folder / "log"), "RECBOLE_TINYKG_CUDA": "1"}
    environment |= {"PYTHONPATH": os.environ["PYTHONPATH"]}  # where setuptools may be
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder / "lib")]
    command += ["--build-temp", str(folder / "objects")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    compiled = [line for line in lines if "csrc/cuda/" in line and " -c " in line]
    return done, [re.findall(r"-gencode=arch=(\S+)", line) for line in compiled]


@pytest.mark.parametrize(
    ("known", "wanted", "expected"),
    [
        (KNOWN, "", "75,code=sm_75 80,code=sm_80 86,code=sm_86 90,code=sm_90 90,code=compute_90"),
        ("80 86", "", "80,code=sm_80 86,code=sm_86 86,code=compute_86"),
        ("100 120", "", "100,code=sm_100 100,code=compute_100"),
        (KNOWN, "8.9", "89,code=sm_89"),
        (KNOWN, "8.0;9.0+PTX", "80,code=sm_80 90,code=sm_90 90,code=compute_90"),
        (KNOWN, "9.0a, 10.0", "90a,code=sm_90a 100,code=sm_100"),
    ],
)
def test_gpus_built_for(tmp_path, known, wanted, expected):
    done, architectures = build(tmp_path, KNOWN=known, TORCH_CUDA_ARCH_LIST=wanted)
    assert done.returncode == 0, done.stderr
    assert len(architectures) == len(list((ROOT / "csrc/cuda").glob("*.cu")))
    for found in architectures:
        assert found == [f"compute_{flag}" for flag in expected.split()]


@pytest.mark.parametrize("wanted", ["Hopper", "6.0", "8.0 nine"])
def test_unknown_gpus_are_refused(tmp_path, wanted):
    done, _ = build(tmp_path, KNOWN=KNOWN, TORCH_CUDA_ARCH_LIST=wanted)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: TORCH_CUDA_ARCH_LIST must hold compute capabilities that")
    assert "(7.5, 8.0, 8.6, 8.9, 9.0, 10.0)" in last
    assert last.endswith(f'got "{wanted}"')
