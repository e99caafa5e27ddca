"""The sparse product on a GPU: the definition's numbers, the same bits in every run, in graphs.

The arithmetic is tested without a GPU too, in `test_cuda_emulation_spmm.py`, which also derives the
tolerances. This file needs no RecBole.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cuda_emulation_spmm import (
    CASES,
    COUNTS,
    INDICES,
    OUTSIDE,
    assert_product,
    csr,
    draw,
    expected_backward,
)

from helpers.operators import layouts
from recbole_tinykg import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ROOT = Path(__file__).parents[2]


def on_gpu(parts, device="cuda"):
    """Return the tensors on the GPU, with the strides and the offset they have."""
    moved = []
    for part in parts:
        if part is not None:
            size = part.untyped_storage().nbytes() // part.element_size()
            storage = part.as_strided((size,), (1,), 0).to(device, copy=True)
            part = storage.as_strided(part.shape, part.stride(), part.storage_offset())
        moved.append(part)
    return moved


def assert_kernels_agree(*parts):
    """Compare `spmm` and `spmm_add_` with the definition, and ten runs with each other."""
    dtype, own = parts[3].dtype, on_gpu(parts)
    product = ops.spmm(*own)
    assert_product(product.cpu(), None, parts, dtype)
    start = draw(*product.shape, dtype, seed=2)
    added = ops.spmm_add_(start.cuda(), *own)
    assert_product(added.cpu(), start, parts, dtype)
    for _ in range(10):
        assert torch.equal(ops.spmm(*own), product)
        assert torch.equal(ops.spmm_add_(start.cuda(), *own), added)


def backward(start, *parts):
    out = start.clone()
    return ops.spmm_backward_(out, *parts), out


def assert_backward(start, *parts):
    """Compare both gradients with the definition, and ten runs with each other."""
    (expected, bound), (dots, dot_bound) = expected_backward(start, *parts)
    own = on_gpu((start, *parts))
    grad_values, out = backward(*own)
    assert ((out.cpu().double() - expected).abs() <= bound).all()
    assert ((grad_values.cpu().double() - dots).abs() <= dot_bound).all()
    for _ in range(10):
        again = backward(*own)
        assert torch.equal(again[0], grad_values)
        assert torch.equal(again[1], out)


def test_native_kernels_are_registered():
    ops.require_native("cuda")
    for name in ("spmm", "spmm_add_", "spmm_backward_"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"recbole_tinykg::{name}", "CUDA")


@pytest.mark.parametrize(("dtype", "num_columns"), CASES, ids=str)
def test_products_of_any_layout_and_alignment(dtype, num_columns):
    matrix = csr(COUNTS, 40, torch.int32, dtype)
    for dense in layouts(draw(40, num_columns, dtype)):
        assert_kernels_agree(*matrix, dense)


@pytest.mark.parametrize("index_dtype", INDICES, ids=str)
def test_rows_places_and_pointers_of_any_stride(index_dtype):
    crow, col, values = csr(COUNTS, 40, index_dtype, torch.float32)
    rows = torch.tensor([8, -1, 4, 0, 8, 9, -1, 1])
    places = (torch.arange(40, dtype=torch.int32).flip(0) - 15).clamp(min=-1)
    dense = draw(40, 20, torch.float32)
    assert_kernels_agree(crow, col, values, dense, rows)
    assert_kernels_agree(crow, col, values, dense[:25], rows, places)
    assert_kernels_agree(crow[2:8], col, values, dense)
    count = torch.arange(4 * 300 + 1, dtype=index_dtype)
    assert_kernels_agree(count[::4], col[:1200], values[:1200], dense)


@pytest.mark.parametrize("num_columns", [1, 4, 64])
def test_a_graph_with_hubs_and_a_row_of_a_million_entries(num_columns):
    generator = torch.Generator().manual_seed(0)
    counts = (20 / torch.rand(20_000, generator=generator)).long().clamp(max=50_000)
    counts[7] = 1_000_000
    matrix = csr(counts.tolist(), 5000, torch.int32, torch.float32)
    assert_kernels_agree(*matrix, draw(5000, num_columns, torch.float32))


@pytest.mark.parametrize(("dtype", "num_columns"), CASES, ids=str)
def test_gradients_of_any_layout_and_alignment(dtype, num_columns):
    matrix = csr([0, 3, 100, 0, 0, 1, 60, 4, 0], 7, torch.int32, dtype)
    grad, start = draw(9, num_columns, dtype, seed=3), draw(7, num_columns, dtype, seed=4)
    for dense, view in zip(layouts(draw(7, num_columns, dtype)), layouts(grad), strict=True):
        assert_backward(start, *matrix, dense, view)


@pytest.mark.parametrize("index_dtype", INDICES, ids=str)
@pytest.mark.parametrize(("num_rows", "num_dense_rows"), [(4096, 10_000), (75_000, 200_000)])
def test_gradients_of_neighbours_with_a_hub(num_rows, num_dense_rows, index_dtype):
    """Four entries a row, as in KGCN, and a twentieth of them in one column."""
    crow = torch.arange(4 * num_rows + 1, dtype=index_dtype)[::4]
    _, col, values = csr([4 * num_rows], num_dense_rows, index_dtype, torch.float32)
    col[torch.rand(len(col), generator=torch.Generator().manual_seed(5)) < 0.05] = 13
    dense, grad = draw(num_dense_rows, 64, torch.float32), draw(num_rows, 64, torch.float32, 3)
    assert_backward(torch.zeros_like(dense), crow, col, values, dense, grad)


def every_product(crow, col, values, dense, grad, rows, places):
    """Return the results of every form."""
    few = dense[: int(len(dense) / 2)]
    return {
        "spmm": ops.spmm(crow, col, values, dense),
        "spmm, rows": ops.spmm(crow, col, values, dense, rows),
        "spmm, places": ops.spmm(crow, col, values, few, None, places),
        "spmm_add_": ops.spmm_add_(grad.clone(), crow, col, values, dense),
        "spmm_backward_": ops.spmm_backward_(dense.clone(), crow, col, values, dense, grad),
    }


def drawn_operands():
    matrix = csr(COUNTS, 40, torch.int32, torch.float32)
    rows = torch.tensor([8, -1, 4, 0, 8])
    places = (torch.arange(40, dtype=torch.int32) - 20).clamp(min=-1)
    dense, grad = draw(40, 64, torch.float32), draw(len(COUNTS), 64, torch.float32, seed=3)
    return on_gpu((*matrix, dense, grad, rows, places))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_no_product_waits_and_nothing_but_results_is_allocated():
    operands = drawn_operands()
    every_product(*operands)
    torch.cuda.set_sync_debug_mode("error")
    try:
        every_product(*operands)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    kept = every_product(*operands)
    # Four results, and the clones that two of the calls write to.
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 6
    del kept


def test_a_graph_repeats_every_product():
    operands = drawn_operands()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        every_product(*operands)  # loads library and kernels, which a capture must not
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = every_product(*operands)
    for _ in range(3):
        operands[3].normal_()  # dense
        graph.replay()
        for name, expected in every_product(*operands).items():
            assert torch.equal(captured[name], expected), name


@pytest.mark.parametrize(("call", "changed", "message"), OUTSIDE)
def test_a_number_out_of_range_stops_the_kernel(call, changed, message, tmp_path):
    """In another process: an error in a kernel ends all use of CUDA."""
    given = {"crow": "torch.tensor([0, 1, 2])", "col": "torch.tensor([0, 2])"}
    given |= {"rows": None, "places": None, **changed}
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch
from recbole_tinykg import ops
torch.set_default_device("cuda")
{call.format(**given)}
torch.cuda.synchronize()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode != 0
    assert message in done.stderr
