"""Quantizer: how to compress a matrix; Quantized: a compressed matrix that knows its bytes.

    quantizer = Quantizer(bits=2)
    codes = quantizer.quantize(x, stream(seed=0, position=step))  # 2 bits per element
    x_hat = codes.dequantize()                                    # unbiased estimate of x

An autograd function hands `codes.tensors()` to `save_for_backward` and rebuilds with `unflatten`,
so that every byte stays visible to PyTorch. At 32 bits the tensor itself is kept, so that one code
path serves both. The noise is a function of the stream (seed, position) and the row, nothing else:
two uses of noise that must be independent take two positions (see `sites`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.errors import ConfigurationError

UNCOMPRESSED = 32
"""The value of `bits` at which the tensor itself is stored."""

BITS = (*ops.BITS, UNCOMPRESSED)
"""Every number of bits that a stored map may have."""

Rounding = Literal["stochastic", "nearest"]


@dataclass(frozen=True)
class Layout:
    """What the tensors of a `Quantized` do not say."""

    bits: int  # 1, 2, 4, 8 or 32
    num_columns: int
    dtype: torch.dtype  # of the result of dequantize
    shape: tuple[int, ...]  # of the result of dequantize; its last number is num_columns


@dataclass(slots=True, eq=False, repr=False)
class Quantized:
    """A compressed matrix: codes, one minimum and one step per group, and their layout."""

    codes: Tensor  # (N, ceil(D * bits / 8)) uint8; at 32 bits the matrix itself
    minimum: Tensor | None  # (N, G); absent at 32 bits
    step: Tensor | None  # (N, G); absent at 32 bits
    layout: Layout

    @classmethod
    def unflatten(cls, tensors: Iterator[Tensor], layout: Layout) -> Quantized:
        """Rebuild from the next of a row of tensors: those that `tensors()` gave."""
        if layout.bits == UNCOMPRESSED:
            return cls(next(tensors), None, None, layout)
        return cls(next(tensors), next(tensors), next(tensors), layout)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all that is stored: one tensor at 32 bits, else codes, minimum and step."""
        if self.minimum is None or self.step is None:
            return (self.codes,)
        return self.codes, self.minimum, self.step

    @property
    def nbytes(self) -> int:
        """Bytes of codes, minimum and step."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def add_to_(self, out: Tensor, index: Tensor | None = None) -> Tensor:
        """Add the matrix in place to `out`, or to its distinct rows `index` (N,); return `out`."""
        if self.minimum is not None and self.step is not None:
            bits = self.layout.bits
            return ops.dequantize_add_(out, self.codes, self.minimum, self.step, index, bits=bits)
        return out.add_(self.codes) if index is None else out.index_add_(0, index, self.codes)

    def dequantize(self) -> Tensor:
        """Return the matrix up to quantization noise; at 32 bits, the tensor that was given."""
        layout = self.layout
        if self.minimum is None or self.step is None:
            value = self.codes
        else:
            value = ops.dequantize(
                self.codes,
                self.minimum,
                self.step,
                num_columns=layout.num_columns,
                bits=layout.bits,
                dtype=layout.dtype,
            )
        return value if len(layout.shape) == 2 else value.view(layout.shape)

    def copy_(self, start: int, block: Quantized) -> None:
        """Write the rows of `block`, which is compressed alike, from row `start` on."""
        for own, new in zip(self.tensors(), block.tensors(), strict=True):
            own[start : start + len(new)].copy_(new)

    def rows(self, start: int, stop: int) -> Quantized:
        """Return a view of rows [start, stop), which shares memory and dequantizes only those.

        Rows are counted over all leading dimensions of a tensor of rank above 2.
        """
        layout = self.layout
        parts = [tensor[start:stop] for tensor in self.tensors()]
        shape = (parts[0].shape[0], layout.num_columns)
        return self.unflatten(iter(parts), Layout(layout.bits, shape[1], layout.dtype, shape))

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"Quantized(shape={layout.shape}, bits={layout.bits}, dtype={layout.dtype}, "
            f"nbytes={self.nbytes})"
        )


@dataclass(frozen=True)
class Quantizer:
    """How to compress: bits per element and rounding.

    Raises:
        ConfigurationError: `bits` or `rounding` is not one of the values below.
    """

    bits: int = 2  # 1, 2, 4, 8, or 32 for the tensor itself
    rounding: Rounding = "stochastic"  # unbiased; "nearest" has less noise and a bias

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigurationError(
                f"bits must be one of {', '.join(map(str, BITS))}; got {self.bits!r}"
            )
        if self.rounding not in ("stochastic", "nearest"):
            raise ConfigurationError(
                f"rounding must be stochastic or nearest; got {self.rounding!r}"
            )

    def quantize(
        self,
        x: Tensor,  # (N, D)
        stream: Tensor,  # (2,) int64
        *,
        first_row: int = 0,
    ) -> Quantized:
        """Compress a matrix with the noise of `stream`; `first_row` as in `ops.quantize`."""
        num_rows, num_columns = x.shape
        layout = Layout(self.bits, num_columns, x.dtype, (num_rows, num_columns))
        if self.bits == UNCOMPRESSED:
            return Quantized(x.contiguous(), None, None, layout)
        stochastic = self.rounding == "stochastic"
        parts = ops.quantize(x, stream, bits=self.bits, stochastic=stochastic, first_row=first_row)
        return Quantized(*parts, layout)

    def empty(self, num_rows: int, like: Tensor) -> Quantized:
        """Return uninitialised codes for `num_rows` rows like those of `like`, for `copy_`.

        With it a matrix that is computed block by block never exists as a whole.
        """
        stream = torch.zeros(2, dtype=torch.int64, device=like.device)
        parts = self.quantize(like[:0], stream).tensors()
        layout = Layout(self.bits, like.shape[1], like.dtype, (num_rows, like.shape[1]))
        room = [part.new_empty(num_rows, *part.shape[1:]) for part in parts]
        return Quantized.unflatten(iter(room), layout)


def stream(seed: int, position: int, device: torch.device | str = "cpu") -> Tensor:  # (2,) int64
    """Return the random stream of a seed at a position; each use of noise takes its own position.

    Args:
        seed: Any signed 64-bit integer.
        position: Number of the draw, from 0.
        device: Device of the data that the noise is for.

    Raises:
        ValueError: `seed` or `position` does not fit.
    """
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit 64 bits; got {seed}")
    if not 0 <= position < 2**63:
        raise ValueError(f"position must be in [0, 2**63); got {position}")
    return torch.tensor((seed, position), dtype=torch.int64, device=device)


def quantize(x: Tensor, *, bits: int = 2, seed: int = 0) -> Quantized:
    """Compress a tensor of any rank above 0, its last dimension in groups of 256, stochastically.

    Args:
        x: float16, bfloat16, float32 or float64, any strides; treated as a constant by autograd.
        bits: 1, 2, 4, 8, or 32 for `x` itself.
        seed: Seed of the noise: the same seed gives the same codes.

    Raises:
        ConfigurationError: `bits` is not one of these.
        TypeError: `x` is not floating point.
        ValueError: `x` has rank 0.
    """
    if x.dim() == 0:
        raise ValueError("x must have at least one dimension; got a scalar")
    matrix = x.detach().reshape(math.prod(x.shape[:-1]), x.shape[-1])
    codes = Quantizer(bits).quantize(matrix, stream(seed, 0, x.device))
    return replace(codes, layout=replace(codes.layout, shape=tuple(x.shape)))
