"""The kernels on a GPU: the bits of the CPU, on any stream and device, in graphs, when large.

Their arithmetic is tested without a GPU too, in `test_cuda_emulation.py`. This file needs no
RecBole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from helpers.operators import (
    BITS,
    DTYPES,
    assert_same_bits,
    difficult_rows,
    layouts,
    rows_between_steps,
)
from helpers.processes import run
from recbole_tinykg import ops
from recbole_tinykg.quantization import stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ROOT = Path(__file__).parents[2]
DROPOUT = {"negative_slope": 0.2, "probability": 0.3, "first_row": 2**33}


def every_operator(x, noise, bits=2):
    """Return the results of all our kernels on `x`, by name."""
    kept = ops.quantize(x, noise, bits=bits)
    options = {"num_columns": x.shape[1], "bits": bits, "dtype": x.dtype}
    mask = ops.sign_mask(x)
    reverse = torch.arange(x.shape[0] - 1, -1, -1, device=x.device)
    changed = x.clone()
    return {
        "quantize": kept,
        "dequantize": ops.dequantize(*kept, **options),
        "dequantize_": ops.dequantize_(x.clone(), *kept, bits=bits),
        "dequantize_add_": ops.dequantize_add_(x.clone(), *kept, bits=bits),
        "dequantize_add_ to rows": ops.dequantize_add_(x.clone(), *kept, reverse, bits=bits),
        "dequantize_ transposed": ops.dequantize_(x.t().clone().t(), *kept, bits=bits),
        "sign_mask": mask,
        "leaky_relu_backward": ops.leaky_relu_backward(x, mask, negative_slope=0.2),
        "dropout": ops.dropout(x, noise, probability=0.3),
        "leaky_relu_dropout_": (ops.leaky_relu_dropout_(changed, noise, x, **DROPOUT), changed),
        "leaky_relu_dropout_backward": ops.leaky_relu_dropout_backward(x, mask, noise, **DROPOUT),
    }


def assert_same_results(on_gpu, on_cpu):
    for name, expected in on_cpu.items():
        got = on_gpu[name]
        parts = [got.cpu()] if torch.is_tensor(got) else [part.cpu() for part in got]
        assert_same_bits(parts, [expected] if torch.is_tensor(expected) else expected)


def test_native_kernels_are_loaded_and_registered():
    every_operator(torch.randn(3, 5, device="cuda"), stream(0, 0, "cuda"))
    package = Path(ops.__file__).parent.parent
    assert ops.native_status("cuda") == (True, str(package / "_native_cuda.so"))
    ops.require_native("cuda")
    for name in (name.partition(" ")[0] for name in every_operator(torch.ones(1, 1), stream(0, 0))):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"recbole_tinykg::{name}", "CUDA")


@pytest.mark.parametrize("num_columns", [1, 7, 8, 12, 16, 64, 100, 176, 255, 256, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_operator_gives_the_bits_of_the_cpu(dtype, num_columns):
    x, noise = difficult_rows(dtype, num_columns), stream(-7, 2**35)
    for view, on_gpu in zip(layouts(x), layouts(x.cuda()), strict=True):
        assert view.stride() == on_gpu.stride()
        for bits in BITS:
            results = every_operator(on_gpu, noise.cuda(), bits)
            assert_same_results(results, every_operator(view, noise, bits))


@pytest.mark.parametrize(
    ("num_rows", "num_columns"), [(4_300_000, 1), (2_200_000, 9), (1_100_000, 40)]
)
def test_more_rows_than_a_launch_has_blocks(num_rows, num_columns):
    x, noise = torch.randn(num_rows, num_columns), stream(1, 2)
    assert_same_results(every_operator(x.cuda(), noise.cuda()), every_operator(x, noise))


@pytest.mark.parametrize("bits", BITS)
def test_ranges_next_to_a_multiple_of_a_step_give_the_bits_of_the_cpu(bits):
    """The device's reciprocals, for every step that there is."""
    x = rows_between_steps(bits)
    on_gpu = ops.quantize(x.cuda(), stream(3, 4, "cuda"), bits=bits)
    assert_same_bits(on_gpu, ops.quantize(x, stream(3, 4), bits=bits))


def test_more_elements_than_32_bits_count():
    """The last rows get the noise and the offsets of the whole matrix."""
    num_rows, num_columns = 2**25 + 11, 64
    if torch.cuda.mem_get_info()[0] < 6 * 2 * num_rows * num_columns:
        pytest.skip("not enough GPU memory")
    x = torch.randn(num_rows, num_columns, dtype=torch.float16, device="cuda")
    noise, last = stream(1, 2, "cuda"), slice(num_rows - 9, num_rows)
    kept = ops.quantize(x, noise, bits=2)
    tail, first_row = x[last].cpu(), num_rows - 9
    expected = ops.quantize(tail, noise.cpu(), bits=2, first_row=first_row)
    assert_same_bits([part[last].cpu() for part in kept], expected)
    options = {"num_columns": num_columns, "bits": 2, "dtype": x.dtype}
    back = ops.dequantize(*kept, **options)
    assert_same_bits(back[last].cpu(), ops.dequantize(*expected, **options))
    del back
    dropped = ops.dropout(x, noise, probability=0.5)[last].cpu()
    expected = ops.dropout(tail, noise.cpu(), probability=0.5, first_row=first_row)
    assert_same_bits(dropped, expected)


def test_a_graph_draws_fresh_noise_at_every_replay():
    x, noise = torch.randn(100, 70), stream(3, 0)
    x_gpu, noise_gpu = x.cuda(), noise.cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        every_operator(x_gpu, noise_gpu)  # loads library and kernels, which a capture must not
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        noise_gpu[1].add_(1)
        captured = every_operator(x_gpu, noise_gpu)
    for position in (1, 2, 3):
        graph.replay()
        assert_same_results(captured, every_operator(x, stream(3, position)))


def test_streams_and_threads_do_not_disturb_each_other():
    x = torch.randn(3000, 70)
    x_gpu = x.cuda()
    noises = [stream(4, position, "cuda") for position in range(4)]
    torch.cuda.synchronize()
    results = [[] for _ in noises]

    def work(noise, found):
        with torch.cuda.stream(torch.cuda.Stream()):
            found += [every_operator(x_gpu, noise) for _ in range(5)]
            torch.cuda.current_stream().synchronize()

    pairs = zip(noises, results, strict=True)
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for noise, found in zip(noises, results, strict=True):
        expected = every_operator(x, noise.cpu())
        assert len(found) == 5
        for on_gpu in found:
            assert_same_results(on_gpu, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_kernels_run_where_the_data_is():
    x, noise = torch.randn(100, 70), stream(3, 0)
    assert torch.cuda.current_device() == 0
    on_gpu = every_operator(x.to("cuda:1"), noise.to("cuda:1"))
    assert on_gpu["dequantize"].device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert_same_results(on_gpu, every_operator(x, noise))
    with pytest.raises(RuntimeError, match="stream must be on the device"):
        torch.ops.recbole_tinykg.quantize(x.to("cuda:1"), noise.to("cuda:0"), bits=2)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_no_operator_waits_for_the_device():
    x, noise = torch.randn(100, 70, device="cuda"), stream(3, 0, "cuda")
    every_operator(x, noise)
    torch.cuda.set_sync_debug_mode("error")
    try:
        every_operator(x, noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nothing_but_the_results_is_allocated():
    x, noise = torch.randn(100, 70, device="cuda"), stream(3, 0, "cuda")
    ops.quantize(x, noise, bits=2)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    kept = ops.quantize(x, noise, bits=2)
    ops.dequantize(*kept, num_columns=70, bits=2, dtype=x.dtype)
    ops.dequantize_add_(x, *kept, bits=2)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 4


def run_apart(script, folder):
    """Run a script in another process: an error in a kernel ends all use of CUDA."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250)


def test_an_index_beyond_the_rows_stops_the_kernel(tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch
from recbole_tinykg import ops
x, noise = torch.ones(3, 9, device="cuda"), torch.zeros(2, dtype=torch.int64, device="cuda")
index = torch.tensor([0, 3, 1], device="cuda")
ops.dequantize_add_(x, *ops.quantize(x, noise, bits=2), index, bits=2)
torch.cuda.synchronize()
"""
    done = run_apart(script, tmp_path)
    assert done.returncode != 0
    assert "index must hold rows of out" in done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_a_gpu_without_code_is_named_with_the_remedy(tmp_path):
    foreign = "7.5" if torch.cuda.get_device_capability() >= (8, 0) else "8.0"
    environment = {**os.environ, "RECBOLE_TINYKG_CUDA": "1", "TORCH_CUDA_ARCH_LIST": foreign}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
    build += ["--build-temp", str(tmp_path / "objects")]
    run(build, cwd=ROOT, env=environment)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    package = tmp_path / "recbole_tinykg"
    shutil.copytree(ROOT / "recbole_tinykg", package, ignore=ignored, dirs_exist_ok=True)
    script = """
import torch
from recbole_tinykg import ops
ops.sign_mask(torch.ones(3, 9, device="cuda"))
"""
    done = run_apart(script, tmp_path)
    assert done.returncode != 0
    major, minor = torch.cuda.get_device_capability()
    gpu = f"do not run on {torch.cuda.get_device_name()} (compute capability {major}.{minor})"
    assert f"{gpu}: they were built for {foreign}" in done.stderr
    assert f"TORCH_CUDA_ARCH_LIST={major}.{minor}" in done.stderr
