"""Quantize a matrix to codes of 1, 2, 4 or 8 bits; `dequantize` is the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_tinykg.ops.checks import check_bits, check_matrix, check_stream

_quantize = torch.ops.recbole_tinykg.quantize.default


def quantize(
    x: Tensor,  # (N, D) float, any strides
    stream: Tensor,  # (2,) int64: seed, position
    *,
    bits: int,
    stochastic: bool = True,
    first_row: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # codes (N, ceil(D * bits / 8)), minimum (N, G), step (N, G)
    """Quantize every group (256 columns of a row) of a matrix to `bits` per element.

    `code = round((x - minimum) / step)`, packed from the low bits of each byte upwards.

    Args:
        x: Matrix to quantize.
        stream: Seed and position of the random stream, on the device of `x`.
        bits: 1, 2, 4 or 8.
        stochastic: Round at random so that the mean is exact; otherwise to the nearest code.
        first_row: Row of the random stream that the first row of `x` takes.

    Returns:
        Codes (uint8), minimum (float32) and step (bfloat16) of the G = ceil(D / 256) groups of each
        row; minimum and step are float64 for float64 `x`.

    Raises:
        TypeError: A tensor has the wrong dtype.
        ValueError: A shape, a device, `bits` or `first_row` is wrong.
    """
    check_matrix("x", x)
    check_stream(stream, x, first_row)
    check_bits(bits)
    return _quantize(x, stream, bits=bits, stochastic=stochastic, first_row=first_row)
