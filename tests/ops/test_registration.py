"""What PyTorch is told about the operators, and what happens without the native library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.operators import DEVICES
from recbole_tinykg import ops
from recbole_tinykg.errors import NativeLibraryError
from recbole_tinykg.quantization import stream

PACKAGE = Path(ops.__file__).parent.parent
ROOT = Path(__file__).parents[2]


def stems(folder, suffix):
    return {path.stem for path in (ROOT / folder).glob(f"*{suffix}")}


def test_an_operator_has_the_same_stem_everywhere():
    operators = stems("csrc/cpu", ".cpp")
    assert "quantize" in operators
    assert operators <= stems("recbole_tinykg/ops", ".py")
    assert operators <= stems("recbole_tinykg/ops/reference", ".py")
    assert {f"test_{name}" for name in operators} <= stems("tests/ops", ".py")
    assert stems("csrc/cuda", ".cu") == operators


def opcheck_cases(device):
    x, noise = torch.randn(5, 37, device=device), stream(1, 2, device)
    kept = ops.quantize(x, noise, bits=2)
    mask, index = ops.sign_mask(x), torch.tensor([6, 0, 3, 1, 5], device=device)
    crow = torch.tensor([0, 2, 3], dtype=torch.int32, device=device)
    matrix = crow, crow.new_tensor([4, 0, 4]), torch.ones(3, device=device)
    rows = torch.tensor([1, -1, 0], device=device)
    places = crow.new_tensor([0, -1, -1, -1, 1])
    width = {"num_columns": 37, "bits": 2, "dtype": torch.float32}
    drop = {"negative_slope": 0.2, "probability": 0.5, "first_row": 3}
    return {
        "quantize": ((x, noise), {"bits": 2, "first_row": 3}),
        "dequantize": (kept, width),
        "dequantize_": ((torch.empty_like(x), *kept), {"bits": 2}),
        "dequantize_add_": ((torch.ones_like(x), *kept), {"bits": 2}),
        "dequantize_add_, index": ((x.new_ones(7, 37), *kept, index), {"bits": 2}),
        "sign_mask": ((x,), {}),
        "leaky_relu_backward": ((x, mask), {"negative_slope": 0.2}),
        "dropout": ((x, noise), {"probability": 0.5}),
        "leaky_relu_dropout_": ((x.clone(), noise), drop),
        "leaky_relu_dropout_, addend": ((x.clone(), noise, x), drop),
        "leaky_relu_dropout_backward": ((x, mask, noise), drop),
        "normalize_backward": ((x, x, x[:, 0].contiguous()), {"eps": 1e-12}),
        "spmm": ((*matrix, x), {}),
        "spmm, rows": ((*matrix, x, rows), {}),
        "spmm, places": ((*matrix, x[:2], None, places), {}),
        "spmm_add_": ((x.new_zeros(2, 37), *matrix, x), {}),
        "spmm_backward_": ((torch.ones_like(x), *matrix, x, x[:2].clone()), {}),
        "spmm_add_, rows": ((x.new_zeros(3, 37), *matrix, x, rows), {}),
        "spmm_add_, places": ((x.new_zeros(2, 37), *matrix, x[:2], None, places), {}),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", opcheck_cases("cpu"))
def test_opcheck(case, device):
    arguments, keywords = opcheck_cases(device)[case]
    operator = getattr(torch.ops.recbole_tinykg, case.partition(",")[0]).default
    results = torch.library.opcheck(operator, arguments, keywords)
    assert set(results.values()) == {"SUCCESS"}


def test_every_operator_has_an_opcheck():
    functions = set(ops.__all__) - {"BITS", "native_status", "random_bits", "require_native"}
    assert {case.partition(",")[0] for case in opcheck_cases("cpu")} == functions


@pytest.mark.parametrize("device", DEVICES)
def test_functions_compile_into_one_graph(device):
    """The argument checks and the search for the native library cause no graph break."""
    x, noise = torch.randn(5, 37, device=device), stream(1, 2, device)
    crow = torch.tensor([0, 2, 3], dtype=torch.int32, device=device)
    col, values = crow.new_tensor([4, 0, 4]), torch.ones(3, device=device)
    rows, drop = torch.tensor([1, -1], device=device), {"negative_slope": 0.2, "probability": 0.5}

    def step(x):
        kept = ops.quantize(x, noise, bits=2)
        back = ops.dequantize(*kept, num_columns=37, bits=2, dtype=x.dtype)
        back = ops.dequantize_add_(ops.dequantize_(back.clone(), *kept, bits=2), *kept, bits=2)
        mask = ops.leaky_relu_dropout_(back, noise, x, **drop)
        grads = ops.leaky_relu_dropout_backward(x, mask, noise, **drop)
        back = ops.leaky_relu_backward(grads[0] + grads[1], ops.sign_mask(x), negative_slope=0.2)
        back = ops.normalize_backward(back, x, x[:, 0].contiguous(), eps=1e-12)
        product = ops.spmm(crow, col, values, ops.dropout(back, noise, probability=0.5))
        product = ops.spmm_add_(product.clone(), crow, col, values, back, rows)
        return ops.spmm_backward_(back.clone(), crow, col, values, back, product), product

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(x), step(x), strict=True):
        assert torch.equal(ours, theirs)


def run_without_native(folder, script, library=None, warnings="error"):
    """Run a script against a copy of the operators whose native library is missing or replaced."""
    package = folder / "recbole_tinykg"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(PACKAGE / "errors.py", package)
    shutil.copytree(PACKAGE / "ops", package / "ops")
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


def test_requiring_kernels_for_a_device_without_any_says_so():
    with pytest.raises(NativeLibraryError, match="there are none for mps; choose cpu or cuda"):
        ops.require_native("mps")


def test_first_calls_of_several_threads_load_the_library_once(tmp_path):
    script = """
import sys, threading, torch
from recbole_tinykg import ops
loads, load = [], torch.ops.load_library
torch.ops.load_library = lambda path: (loads.append(path), load(path))
sys.setswitchinterval(1e-6)
barrier, flags = threading.Barrier(8), sys.getdlopenflags()
def call():
    barrier.wait()
    ops.sign_mask(torch.ones(2, 3))
threads = [threading.Thread(target=call) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
print(len(loads), sys.getdlopenflags() == flags)
"""
    done = run_without_native(tmp_path, script, (PACKAGE / "_native_cpu.so").read_bytes())
    assert (done.stdout, done.stderr) == ("1 True\n", "")


def test_fallback_has_the_layout_of_the_kernels(tmp_path):
    script = """
import torch
from recbole_tinykg import ops
x, noise, mask = torch.randn(6, 64).t(), torch.tensor([1, 2]), ops.sign_mask(torch.ones(64, 6))
drop = {"negative_slope": 0.2, "probability": 0.5}
results = [ops.dropout(x, noise, probability=0.5),
           ops.leaky_relu_backward(x, mask, negative_slope=0.1),
           ops.normalize_backward(x, x, torch.zeros(64), eps=1e-12),
           *ops.leaky_relu_dropout_backward(x, mask, noise, **drop)]
print(all(result.is_contiguous() for result in results), ops.native_status()[0])
"""
    done = run_without_native(tmp_path, script, warnings="ignore")
    assert (done.stdout, done.stderr) == ("True False\n", "")


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
