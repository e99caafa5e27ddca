r"""Rows of unit length, and the way back through them when their gradient comes later.

Backward of :math:`y = x / \|x\|` is :math:`(g - y\,(y^\top g)) / \|x\|`: it meets y twice, so it
reads two codes of y whose noises are independent. Lengths are kept exactly.

Saves: two codes of y (bits/4 B per element) and 4 B per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from recbole_tinykg.functional.bpr import EPS
from recbole_tinykg.quantization import Quantized, Site
from recbole_tinykg.quantization.quantizer import Layout

ROW_BLOCK = 4096
"""Rows that backward handles at a time on a CPU."""

DEVICE_ROW_BLOCK = 32 * ROW_BLOCK
"""The same on a GPU, which a block has to keep busy: 34 MB at 64 floats."""


def normalize(x: Tensor) -> tuple[Tensor, Tensor]:  # (N, D) -> (N, D), (N, 1)
    """Return the rows x / max(|x|, EPS), and what they were divided by."""
    length = x.norm(dim=1, keepdim=True).clamp_(min=EPS)
    return x / length, length


def along(y: Tensor, g: Tensor, length: Tensor) -> Tensor:  # (N, D), (N, D), (N, 1) -> (N, 1)
    """Return how far g points along y; 0 in rows divided by EPS, where y is linear in x."""
    return (y * g).sum(1, keepdim=True).masked_fill_(length <= EPS, 0)


@dataclass(frozen=True)
class UnitRows:
    """What is saved of normalised rows."""

    first: Quantized  # (N, D)
    second: Quantized  # (N, D)
    length: Tensor  # (N, 1)

    @classmethod
    def quantize(cls, y: Tensor, length: Tensor, first: Site, second: Site) -> UnitRows:
        """Compress y twice, with independent noise."""
        return cls(first.quantize(y), second.quantize(y), length)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all of it as a flat tuple."""
        return *self.first.tensors(), *self.second.tensors(), self.length

    def layouts(self) -> list[Layout]:
        """Return what `restore` needs besides the tensors."""
        return [self.first.layout, self.second.layout]

    @classmethod
    def restore(cls, tensors: Iterator[Tensor], layouts: list[Layout]) -> UnitRows:
        """Rebuild from the next of a row of tensors: those that `tensors()` gave."""
        first, second = (Quantized.unflatten(tensors, layout) for layout in layouts)
        return cls(first, second, next(tensors))

    def backward_(self, gradient: Tensor) -> Tensor:  # (N, D)
        """Replace the gradient of y by that of x."""
        size = ROW_BLOCK if gradient.device.type == "cpu" else DEVICE_ROW_BLOCK
        for start in range(0, len(gradient), size):
            rows = slice(start, start + size)
            stop = min(rows.stop, len(gradient))
            g, length = gradient[rows], self.length[rows]
            dot = along(self.second.rows(start, stop).dequantize(), g, length)
            g.addcmul_(self.first.rows(start, stop).dequantize(), dot, value=-1).div_(length)
        return gradient
