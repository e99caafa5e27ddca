"""Dequantized results that are large; `test_quantize.py` compares all others with the reference."""

from __future__ import annotations

import pytest
import torch

from helpers.operators import BITS, DEVICES, assert_same_bits, available_gib
from recbole_tinykg import ops
from recbole_tinykg.quantization import stream


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", BITS)
def test_large_results_that_bypass_the_caches_have_the_same_bits(bits, device):
    """32 MB of dense float32 rows are written past the caches, strided rows are not."""
    x, noise = torch.randn(131_100, 64, device=device), stream(1, 2, device)
    codes = ops.quantize(x, noise, bits=bits)
    strided = torch.zeros(131_100, 65, device=device)[:, :64]
    expected = ops.dequantize_(strided, *codes, bits=bits)
    assert_same_bits(ops.dequantize(*codes, num_columns=64, bits=bits, dtype=x.dtype), expected)


@pytest.mark.skipif(available_gib() < 8, reason="needs 8 GiB")
def test_results_of_more_than_two_to_the_31_elements():
    num_rows = 2**25 + 3
    x = torch.randn(1, 64, dtype=torch.bfloat16).expand(num_rows, 64)
    kept = ops.quantize(x, stream(1, 2), bits=1)
    options = {"num_columns": 64, "bits": 1, "dtype": x.dtype}
    back = ops.dequantize(*kept, **options)
    assert_same_bits(back[-5:], ops.dequantize(*(part[-5:] for part in kept), **options))
