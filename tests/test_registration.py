"""What PyTorch is told of the operators, and what happens without the native library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_tinykg import ops
from recbole_tinykg.errors import NativeLibraryError
from recbole_tinykg.quantizer import stream

PACKAGE = Path(ops.__file__).parent.parent


def opcheck_cases():
    x, noise = torch.randn(5, 37), stream(1, 2)
    codes, minimum, step = ops.quantize(x, noise, bits=2)
    index = torch.tensor([0, 2, 3], dtype=torch.int32)
    matrix = index, index[:0].new_tensor([4, 0, 4]), torch.ones(3)
    width = {"num_columns": 37, "bits": 2, "dtype": torch.float32}
    return {
        "quantize": ((x, noise), {"bits": 2, "first_row": 3}),
        "dequantize": ((codes, minimum, step), width),
        "sign_mask": ((x,), {}),
        "leaky_relu_backward": ((x, ops.sign_mask(x)), {"negative_slope": 0.2}),
        "dropout": ((x, noise), {"probability": 0.5}),
        "spmm": ((*matrix, x), {}),
        "spmm_add_": ((torch.zeros(2, 37), *matrix, x), {}),
    }


@pytest.mark.parametrize("name", opcheck_cases())
def test_opcheck(name):
    arguments, keywords = opcheck_cases()[name]
    operator = getattr(torch.ops.recbole_tinykg, name).default
    results = torch.library.opcheck(operator, arguments, keywords)
    assert set(results.values()) == {"SUCCESS"}


def test_functions_compile_into_one_graph():
    """The argument checks and the search for the native library leave nothing to a graph break."""
    x, noise = torch.randn(5, 37), stream(1, 2)
    crow, col = torch.tensor([0, 2, 3], dtype=torch.int32), torch.tensor([4, 0, 4]).int()

    def step(x):
        codes, minimum, size = ops.quantize(x, noise, bits=2)
        back = ops.dequantize(codes, minimum, size, num_columns=37, bits=2, dtype=x.dtype)
        back = ops.leaky_relu_backward(back, ops.sign_mask(x), negative_slope=0.2)
        product = ops.spmm(crow, col, torch.ones(3), ops.dropout(back, noise, probability=0.5))
        return ops.spmm_add_(product.clone(), crow, col, torch.ones(3), back)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), step(x))


def run_without_native(folder, script, library=None, warnings="error"):
    """Run a script against a copy of the operators whose native library is missing or replaced."""
    package = folder / "recbole_tinykg"
    package.mkdir()
    (package / "__init__.py").touch()
    for module in ("errors", "registration", "quantizer"):
        shutil.copy(PACKAGE / f"{module}.py", package)
    for module in ("reference", "ops"):
        shutil.copytree(PACKAGE / module, package / module)
    if library is not None:
        (package / "_native_cpu.so").write_bytes(library)
    command = [sys.executable, "-W", warnings, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_missing_library_is_said_once_and_the_reference_stands_in(tmp_path):
    script = """
import torch
from recbole_tinykg import ops
x, stream = torch.randn(3, 9), torch.tensor([1, 2])
for _ in range(3):
    ops.quantize(x, stream, bits=2)
    ops.sign_mask(x)
print(ops.native_status()[0])
"""
    done = run_without_native(tmp_path, script, warnings="always")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
    assert done.stderr.count("RuntimeWarning") == 1
    assert "_native_cpu.so does not exist; build it with `pip install" in done.stderr


@pytest.mark.parametrize("library", [None, b"not a library"])
def test_requiring_a_missing_or_broken_library_names_the_remedy(tmp_path, library):
    script = "from recbole_tinykg import ops; ops.require_native()"
    done = run_without_native(tmp_path, script, library)
    last = done.stderr.splitlines()[-1]
    assert NativeLibraryError.__name__ in last
    assert ("does not exist" if library is None else "does not load") in last
    assert "build it with" in last


def test_sparse_csr_warning_does_not_reach_the_user():
    """In a fresh process, as PyTorch says it once: any warning is an error there."""
    script = """
import torch
from recbole_tinykg import ops
index = torch.tensor([0, 1])
print(ops.spmm(index, index[:1], torch.ones(1), torch.ones(1, 1)).item())
"""
    command = [sys.executable, "-W", "error", "-c", script]
    folder = PACKAGE.parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("1.0\n", "")
