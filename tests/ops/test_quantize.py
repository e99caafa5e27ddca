"""Kernels against the reference bit for bit, and what the quantizer promises."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from helpers.operators import (
    DEVICES,
    DTYPES,
    assert_all_ops_equal_reference,
    assert_same_bits,
    available_gib,
    difficult_rows,
    layouts,
)
from recbole_tinykg import ops
from recbole_tinykg.ops import reference
from recbole_tinykg.quantization import stream

PACKAGE = Path(ops.__file__).parent.parent


def test_native_library_is_loaded():
    """Without it the comparisons below would compare the reference with itself."""
    assert ops.native_status() == (True, str(PACKAGE / "_native_cpu.so"))
    ops.require_native()
    for name in set(ops.__all__) - {"BITS", "native_status", "random_bits", "require_native"}:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"recbole_tinykg::{name}", "CPU")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_columns", [1, 7, 16, 64, 255, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_equal_the_reference_bit_for_bit(dtype, num_columns, device):
    for x in layouts(difficult_rows(dtype, num_columns)):
        assert_all_ops_equal_reference(x, stream(-7, 2**35, device), first_row=2**33)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_matrices_pass_through_every_operator(dtype, shape):
    assert_all_ops_equal_reference(torch.empty(shape, dtype=dtype), stream(0, 0))


def test_largest_value_never_rounds_past_the_last_code():
    """The step of this range is exact, and (x - minimum) / step is rounded to just above 255.

    Noise of 0 then rounds up, in one draw of 2**16: 15 of the million elements here.
    """
    x = torch.full((4000, 256), 255 * (1 + 39 / 128))
    x[:, 0] = 0
    noise = stream(0, 0)
    kept = ops.quantize(x, noise, bits=8)
    assert_same_bits(kept, reference.quantize(x, noise, bits=8))
    assert (kept[2] * 255 == x[0, 1]).all()
    assert (kept[0][:, 1:] == 255).all()


def test_threads_share_the_work_without_a_trace():
    x, noise = torch.randn(5000, 70), stream(1, 1)
    expected = reference.quantize(x, noise, bits=2)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert_same_bits(ops.quantize(x, noise, bits=2), expected)
    finally:
        torch.set_num_threads(threads)


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    x, noise = torch.randn(5, 9, generator=torch.Generator()), stream(1, 1)
    ops.quantize(x, noise, bits=2)
    ops.dropout(x, noise, probability=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_python_threads_do_not_disturb_each_other():
    blocks = [torch.randn(500, 70) for _ in range(8)]
    expected = [reference.quantize(x, stream(3, i), bits=2) for i, x in enumerate(blocks)]
    got = [[] for _ in blocks]

    def work(i):
        for _ in range(20):
            got[i].append(ops.quantize(blocks[i], stream(3, i), bits=2))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(blocks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, wanted in zip(got, expected, strict=True):
        assert len(own) == 20
        for kept in own:
            assert_same_bits(kept, wanted)


@pytest.mark.skipif(available_gib() < 3, reason="needs 3 GiB")
def test_more_than_two_to_the_31_elements():
    """A repeated row takes no memory: the last of 2**25 rows gets the noise of its place."""
    num_rows = 2**25 + 3
    x = torch.randn(1, 64).expand(num_rows, 64)
    kept = ops.quantize(x, stream(1, 2), bits=1)
    last = ops.quantize(x[-5:], stream(1, 2), bits=1, first_row=num_rows - 5)
    assert_same_bits([part[-5:] for part in kept], last)
    assert_same_bits(ops.sign_mask(x)[-5:], ops.sign_mask(x[-5:]))
