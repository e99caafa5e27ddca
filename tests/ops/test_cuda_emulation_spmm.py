"""The CUDA kernels of the sparse product without a GPU: their source, run on the CPU.

Against the definition in float64. A sum of n products, each rounded, in any order, is off by at
most depth * eps * (sum of the products' sizes), where depth is the longest chain of additions; the
result is rounded once more, to its own type. A kernel that sums long rows in one lane has a deeper
chain than the bound allows.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cuda_emulation import CXX, EMULATION, NAMESPACE, build, loaded, needs_compiler
from helpers.operators import DTYPES, layouts
from recbole_tinykg.ops import reference

pytestmark = needs_compiler

INDICES = [torch.int32, torch.int64]
LONG = 512  # entries; longer rows are summed by whole blocks
COUNTS = [0, 3, LONG - 1, LONG, LONG + 1, 0, 1, 2, 700, 0]
WIDTHS = [1, 2, 3, 4, 5, 8, 16, 31, 33, 64, 100, 129, 256, 300]
FEW_WIDTHS = [1, 6, 8, 33, 64, 264]
CASES = [(d, w) for d in DTYPES for w in (WIDTHS if d == torch.float32 else FEW_WIDTHS)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return the library of both kernels, compiled for the CPU."""
    return build(tmp_path_factory.mktemp("cuda_emulation_spmm"), "spmm", "spmm_backward")


@pytest.fixture(scope="module")
def emulated(library):
    """Return the operators of `csrc/cuda/spmm*.cu`, running on CPU tensors."""
    with loaded(library, "spmm") as operators:
        yield operators


def csr(counts, num_columns, index_dtype, dtype, seed=0):
    """Draw a CSR matrix whose rows have these numbers of entries."""
    generator = torch.Generator().manual_seed(seed)
    crow = torch.tensor([0, *itertools.accumulate(counts)], dtype=index_dtype)
    col = torch.randint(num_columns, (int(crow[-1]),), generator=generator).to(index_dtype)
    values = torch.randn(len(col), generator=generator, dtype=torch.float64).to(dtype)
    return crow, col, values


def draw(num_rows, num_columns, dtype, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64).to(dtype)


def window(x, fill=7.0):
    """Return x as a window of a larger matrix, and that matrix."""
    around = torch.full((x.shape[0] + 2, x.shape[1] + 6), fill, dtype=x.dtype)
    around[1:-1, 3:-3] = x
    return around[1:-1, 3:-3], around


def depth(counts):
    """Return the most additions after each other; long rows have 64 lanes or more for a column."""
    return torch.where(counts > LONG, counts / 64 + 20, counts + 8)[:, None]


def assert_product(got, start, parts, dtype):
    """Compare with the definition in float64; `start` is what the product was added to, or None."""
    crow, col, values, dense, *lists = parts
    wide = [crow, col, values.double(), dense.double(), *lists]
    expected = reference.spmm(*wide)
    size = reference.spmm(crow, col, wide[2].abs(), wide[3].abs(), *lists)
    counts = crow.diff()
    if lists and lists[0] is not None:
        counts = torch.where(lists[0] < 0, 0, counts[lists[0].clamp(min=0)])
    eps = torch.finfo(reference.compute_dtype(dtype)).eps
    bound = depth(counts) * eps * size
    if start is not None:
        expected, bound = expected + start.double(), bound + eps * start.double().abs()
    bound += torch.finfo(dtype).eps * (expected.abs() + bound)
    assert got.dtype == dtype
    assert ((got.double() - expected).abs() <= bound).all()


def assert_kernels_agree(emulated, *parts):
    """Compare `spmm` and `spmm_add_`, which may change nothing around `out`."""
    dtype = parts[3].dtype
    product = emulated.spmm(*parts)
    assert_product(product, None, parts, dtype)
    start = draw(*product.shape, dtype, seed=2)
    for transposed in (False, True):
        out, around = window(start)
        if transposed:
            around = out.t().contiguous()
            out = around.t()
        emulated.spmm_add_(out, *parts)
        assert_product(out, start, parts, dtype)
        if not transposed:
            around[1:-1, 3:-3] = 7
            assert (around == 7).all()


@pytest.mark.parametrize(("dtype", "num_columns"), CASES, ids=str)
def test_products_of_any_layout_and_alignment(emulated, dtype, num_columns):
    """Rows of no, few and many entries, around the length from which blocks sum them."""
    matrix = csr(COUNTS, 40, torch.int32, dtype)
    for dense in layouts(draw(40, num_columns, dtype)):
        assert_kernels_agree(emulated, *matrix, dense)


@pytest.mark.parametrize("num_columns", [3, 16, 64, 130])
@pytest.mark.parametrize("index_dtype", INDICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_places_of_any_stride_and_alignment(emulated, dtype, index_dtype, num_columns):
    """Some rows come twice or not at all, -1 is none; an absent row of dense is not read."""
    matrix = csr(COUNTS, 40, index_dtype, dtype)
    rows = torch.tensor([8, -1, 4, 0, 8, 9, -1, 1]).repeat_interleave(3)[::3]
    places = torch.arange(40, dtype=torch.int32).flip(0) - 15
    places = torch.stack((places.clamp(min=-1), places), 1)[:, 0]
    dense = draw(25, num_columns, dtype)
    for given_rows, given_places in ((rows, None), (None, places), (rows, places)):
        right = dense if given_places is not None else draw(40, num_columns, dtype)
        assert_kernels_agree(emulated, *matrix, right, given_rows, given_places)


def test_entries_of_absent_places_are_skipped_whatever_their_values(emulated):
    crow, col = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1])
    values = torch.tensor([2.0, float("inf"), float("nan")])
    places = torch.tensor([0, -1], dtype=torch.int32)
    for num_columns in (4, 5):
        out = emulated.spmm(crow, col, values, torch.ones(1, num_columns), None, places)
        assert (out[0] == 2).all() and (out[1] == 0).all()


@pytest.mark.parametrize("index_dtype", INDICES, ids=str)
def test_pointers_may_be_strided_and_need_not_cover_the_entries(emulated, index_dtype):
    """Both are what KGCN and KGIN hand over: `count[::size]` and `pair_crow[start:stop + 1]`."""
    crow, col, values = csr(COUNTS, 40, index_dtype, torch.float32)
    dense = draw(40, 20, torch.float32)
    assert_kernels_agree(emulated, crow[2:8], col, values, dense)
    count = torch.arange(4 * 300 + 1, dtype=index_dtype)
    assert_kernels_agree(emulated, count[::4], col[:1200], values[:1200], dense)
    assert_kernels_agree(emulated, count[8:-12:4], col[:1200], values[:1200], dense)
    spaced = [part.repeat_interleave(2)[::2] for part in (crow, col, values)]
    assert_kernels_agree(emulated, *spaced, dense)


@pytest.mark.parametrize("index_dtype", INDICES, ids=str)
@pytest.mark.parametrize("num_columns", [1, 4])
def test_a_row_of_a_million_entries(emulated, num_columns, index_dtype):
    matrix = csr([2, 1_000_000, 1], 50, index_dtype, torch.float32)
    dense = draw(50, num_columns, torch.float32)
    product = emulated.spmm(*matrix, dense)
    assert_product(product, None, (*matrix, dense), torch.float32)
    assert torch.equal(emulated.spmm(*matrix, dense), product)


def test_long_rows_are_found_wherever_they_are(emulated):
    """Of more rows than the blocks that look for them see at once."""
    counts = torch.full((3000,), 1)
    counts[::500] = LONG + 5
    counts[-1] = counts[1] = LONG + 1
    parts = (*csr(counts.tolist(), 30, torch.int32, torch.float32), draw(30, 36, torch.float32))
    product = emulated.spmm(*parts)
    assert_product(product, None, parts, torch.float32)
    assert torch.equal(emulated.spmm(*parts), product)


@pytest.mark.parametrize("shape", [(0, 5, 3), (3, 0, 3), (3, 5, 0), (0, 0, 0)])
def test_empty_products(emulated, shape):
    num_rows, num_dense_rows, num_columns = shape
    empty = torch.zeros(num_rows + 1, dtype=torch.int32), torch.empty(0, dtype=torch.int32)
    parts = (*empty, torch.empty(0), torch.empty(num_dense_rows, num_columns))
    assert torch.equal(emulated.spmm(*parts), torch.zeros(num_rows, num_columns))
    out = torch.ones(num_rows, num_columns)
    emulated.spmm_add_(out, *parts)
    assert (out == 1).all()
    grad_values = emulated.spmm_backward_(torch.ones_like(parts[3]), *parts, out)
    assert grad_values.shape == (0,)


@settings(max_examples=8, deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    num_columns=st.integers(1, 300),
    offset=st.integers(0, 5),
    gap=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    index_dtype=st.sampled_from(INDICES),
    seed=st.integers(0, 2**31),
)
def test_any_alignment_of_dense(
    emulated, counts, num_columns, offset, gap, dtype, index_dtype, seed
):
    storage = draw(1, offset + 9 * (num_columns + gap), dtype, seed)[0]
    dense = storage.as_strided((9, num_columns), (num_columns + gap, 1), offset)
    matrix = csr(counts, 9, index_dtype, dtype, seed)
    assert_kernels_agree(emulated, *matrix, dense)
    if sum(counts):
        grad = draw(len(counts), num_columns, dtype, seed)
        assert_backward(emulated, dense, *matrix, dense, grad)


def expected_backward(start, crow, col, values, dense, grad):
    """Return `out` and the gradient of the values in float64, and how far each may be off.

    A column's sum is added to `out`, and rounded to its type, once for each 1,024 entries at most.
    """
    dtype, eps = dense.dtype, torch.finfo(reference.compute_dtype(dense.dtype)).eps
    wide = [t.double() for t in (values, dense, grad)]
    expected, size = start.double().clone(), torch.zeros(start.shape, dtype=torch.float64)
    dots = reference.spmm_backward_(expected, crow, col, *wide)
    dot_sizes = reference.spmm_backward_(size, crow, col, *[t.abs() for t in wide])
    counts = torch.bincount(col.long(), minlength=len(dense))[:, None]
    roundings = torch.finfo(dtype).eps * (len(col) / 1024 + 1)
    most = start.double().abs() + size
    bound = (counts + 8) * eps * size + roundings * most
    bound += counts * torch.finfo(torch.float64).eps * most  # the definition rounds at every entry
    dot_bound = ((dense.shape[1] + 4) * eps + torch.finfo(dtype).eps) * dot_sizes
    return (expected, bound), (dots, dot_bound)


def assert_backward(emulated, start, *parts):
    """Compare both gradients with the definition in float64, and run twice."""
    (expected, bound), (dots, dot_bound) = expected_backward(start, *parts)
    results = []
    for _ in range(2):
        out, around = window(start)
        grad_values = emulated.spmm_backward_(out, *parts)
        assert ((out.double() - expected).abs() <= bound).all()
        around[1:-1, 3:-3] = 7
        assert (around == 7).all()
        results.append((out.clone(), grad_values))
    for _, grad_values in results:
        assert grad_values.dtype == start.dtype
        assert ((grad_values.double() - dots).abs() <= dot_bound).all()
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(("dtype", "num_columns"), CASES, ids=str)
def test_gradients_of_any_layout_and_alignment(emulated, dtype, num_columns):
    matrix = csr([0, 3, 100, 0, 0, 1, 60, 4, 0], 7, torch.int32, dtype)
    grad = draw(9, num_columns, dtype, seed=3)
    start = draw(7, num_columns, dtype, seed=4)
    views = zip(layouts(draw(7, num_columns, dtype)), layouts(grad), strict=True)
    for dense, grad_view in views:
        assert_backward(emulated, start, *matrix, dense, grad_view)


@pytest.mark.parametrize("index_dtype", INDICES, ids=str)
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_gradients_of_a_column_with_many_entries(emulated, share, index_dtype):
    """More than a block keeps at once, and all of them in one column; four a row, as in KGCN."""
    num_rows = 1500
    crow = torch.arange(4 * num_rows + 1, dtype=index_dtype)[::4]
    _, col, values = csr([4 * num_rows], 20, index_dtype, torch.float32)
    col[torch.rand(len(col), generator=torch.Generator().manual_seed(5)) < share] = 13
    dense, grad = draw(20, 16, torch.float32), draw(num_rows, 16, torch.float32, seed=3)
    assert_backward(emulated, torch.zeros_like(dense), crow, col, values, dense, grad)


def test_gradients_of_more_columns_than_blocks(emulated):
    matrix = csr([7] * 300, 1000, torch.int64, torch.float32)
    dense, grad = draw(1000, 8, torch.float32), draw(300, 8, torch.float32, seed=3)
    assert_backward(emulated, torch.zeros_like(dense), *matrix, dense, grad)


X, CROW, COL = torch.ones(3, 8), torch.tensor([0, 1, 2]), torch.tensor([0, 2])
VALUES, ROWS = torch.ones(2), torch.tensor([1, 0])
PLACES = torch.tensor([0, 1, 2], dtype=torch.int32)
REFUSED = {
    "crow must have shape": lambda ops: ops.spmm(CROW[None], COL, VALUES, X),
    "crow must be int32 or int64": lambda ops: ops.spmm(CROW.short(), COL.short(), VALUES, X),
    "col must have crow's type": lambda ops: ops.spmm(CROW, COL.int(), VALUES, X),
    "rows must be a list of int64": lambda ops: ops.spmm(CROW, COL, VALUES, X, ROWS.int()),
    "places must be a list of int32": lambda ops: ops.spmm(
        CROW, COL, VALUES, X, None, PLACES.long()
    ),
    "the shape of the product": lambda ops: ops.spmm_add_(X.clone(), CROW, COL, VALUES, X),
    "out must have dense's shape": lambda ops: ops.spmm_backward_(
        X[1:].clone(), CROW, COL, VALUES, X, X[1:]
    ),
    "grad must have a row for each": lambda ops: ops.spmm_backward_(
        X.clone(), CROW, COL, VALUES, X, X
    ),
    "crow must rise from 0 to the number of entries, 2": lambda ops: ops.spmm_backward_(
        X.clone(), CROW[:1], COL, VALUES, X, X[:0]
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_corrupt_memory_is_refused(emulated, message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message](emulated)


PRODUCT = "ops.spmm({crow}, {col}, torch.ones(2), torch.ones(3, 8), {rows}, {places})"
BACKWARD = (
    "ops.spmm_backward_(torch.ones(3, 8), {crow}, {col}, torch.ones(2), torch.ones(3, 8),"
    " torch.ones(2, 8))"
)
POINTERS = "crow must rise from 0"
OUTSIDE = [
    (PRODUCT, {"col": "torch.tensor([0, 3])"}, "col must hold rows of dense"),
    (PRODUCT, {"col": "torch.tensor([0, -1])"}, "col must hold rows of dense"),
    (PRODUCT, {"rows": "torch.tensor([0, 2])"}, "rows must hold rows of the sparse matrix"),
    (PRODUCT, {"places": "torch.tensor([0, 0, 3]).int()"}, "places must hold rows of dense"),
    (PRODUCT, {"crow": "torch.tensor([0, 1, 3])"}, POINTERS),
    (PRODUCT, {"crow": "torch.tensor([-1, 1, 2])"}, POINTERS),
    (PRODUCT, {"crow": "torch.tensor([0, 2, 1])"}, POINTERS),
    (BACKWARD, {"col": "torch.tensor([0, 3])"}, "col must hold rows of dense"),
    (BACKWARD, {"col": "torch.tensor([0, -1])"}, "col must hold rows of dense"),
    (BACKWARD, {"crow": "torch.tensor([1, 1, 2])"}, POINTERS),
    (BACKWARD, {"crow": "torch.tensor([0, 1, 1])"}, POINTERS),
]


@pytest.mark.parametrize(("call", "changed", "message"), OUTSIDE)
def test_a_number_out_of_range_stops_the_kernel(library, call, changed, message):
    """In another process, which the failed assertion ends."""
    given = {"crow": "torch.tensor([0, 1, 2])", "col": "torch.tensor([0, 2])"}
    given |= {"rows": None, "places": None, **changed}
    script = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
import torch
from helpers.cuda_emulation import loaded
with loaded(Path({str(library)!r}), "spmm") as ops:
    {call.format(**given)}
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode < 0, NAMESPACE
    assert message in done.stderr


EMULATED = """
void kernel() { %s }
int main() { emulation::launch({2, 1}, 64, kernel); }
"""
SHARED = "__shared__ int sum[64]; sum[threadIdx.x] = int(threadIdx.x); __syncthreads(); "
KERNELS = {
    SHARED + "if (sum[63 - threadIdx.x] != 63 - int(threadIdx.x)) std::abort();": "",
    "if (__ballot_sync(~0u, threadIdx.x % 2) != 0xAAAAAAAAu) std::abort();": "",
    "if (!__syncthreads_or(threadIdx.x == 40) || __syncthreads_or(0)) std::abort();": "",
    "if (threadIdx.x < 32) __syncthreads();": "threads meet in different shuffles or barriers",
    "if (threadIdx.x < 31) __shfl_xor_sync(~0u, 1, 1); else __syncthreads();": "not all threads",
    "if (threadIdx.x != 3) __shfl_xor_sync(~0u, 1, 1); ": "not all threads reach",
    "__shfl_xor_sync(~0u, 1, threadIdx.x < 3 ? 1 : 2);": "threads meet in different shuffles",
    "__shfl_xor_sync(1u, 1, 1);": "a shuffle must name all lanes",
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_emulation_finds_meetings_that_not_all_threads_reach(kernel, tmp_path):
    source, program = tmp_path / "kernel.cpp", tmp_path / "kernel"
    source.write_text(EMULATED % kernel)
    subprocess.run([*CXX, *EMULATION, source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == (not KERNELS[kernel])
    assert KERNELS[kernel] in done.stderr
