"""What is kept in place of a saved tensor, and how the tensor is made again.

Everything that stays in memory goes through `Outer`, the saved-tensor hooks around the block:
PyTorch asks only the innermost hooks, so without this a meter, or an offloader, would see nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.quantization import Quantized, Quantizer
from recbole_tinykg.quantization.quantizer import Layout


@dataclass(frozen=True)
class Outer:
    """The hooks around a block, or none."""

    pack: Callable[[Tensor], Any] = staticmethod(lambda tensor: tensor)
    unpack: Callable[[Any], Tensor] = staticmethod(lambda kept: kept)

    @classmethod
    def current(cls) -> Outer:
        """The innermost saved-tensor hooks of this thread."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        return cls(*hooks) if hooks else cls()


class Parcel:
    """A tensor in the hands of the outer hooks, taken back once: checkpoint gives nothing twice.

    Several operations share what is kept of a storage, so the second would ask again.
    """

    def __init__(self, tensor: Tensor, outer: Outer) -> None:
        """Hand over a tensor that has no autograd history."""
        self._outer, self._kept = outer, outer.pack(tensor)
        self._opened: Tensor | None = None

    def tensor(self) -> Tensor:
        """The tensor, or what the hooks made of it."""
        if self._opened is None:
            self._opened = self._outer.unpack(self._kept)
        return self._opened


class Kept(Protocol):
    """Stands for the numbers of a storage."""

    def tensor(self) -> Tensor:
        """The numbers, exact or estimated."""


class Reference:
    """A tensor as it is; that it changed since is an error, as in autograd."""

    def __init__(self, tensor: Tensor, outer: Outer) -> None:
        """Keep a tensor that has no autograd history."""
        self._version, self._shape = tensor._version, tuple(tensor.shape)
        self._is_strided = tensor.layout is torch.strided
        self._storage = tensor.untyped_storage()._cdata if self._is_strided else 0
        self._kept = Parcel(tensor, outer)

    def tensor(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: It was changed in place since.
        """
        tensor = self._kept.tensor()
        is_copy = self._is_strided and tensor.untyped_storage()._cdata != self._storage
        if not is_copy and tensor._version != self._version:
            raise RuntimeError(
                f"a tensor of shape {self._shape} that backward needs (a parameter, rows gathered "
                "from it, or an activation that compressed_saves keeps as it is) has been modified "
                f"in place since forward: it is at version {tensor._version}, expected version "
                f"{self._version}. Call backward before the optimizer steps"
            )
        return tensor


class Codes:
    """A storage as low-bit codes."""

    def __init__(self, x: Tensor, quantizer: Quantizer, stream: Tensor, outer: Outer) -> None:
        """Quantize a storage as a matrix."""
        kept = quantizer.quantize(x, stream)
        self._layout: Layout = kept.layout
        self._kept = [Parcel(tensor, outer) for tensor in kept.tensors()]
        self._last: Callable[[], Tensor | None] = lambda: None

    def tensor(self) -> Tensor:
        """The estimate; operations of a node that ask at the same time share it."""
        if (tensor := self._last()) is None:
            parts = (kept.tensor() for kept in self._kept)
            tensor = Quantized.unflatten(parts, self._layout).dequantize()
            self._last = weakref.ref(tensor)
        return tensor


class Signs:
    """One bit per element of a storage: whether it is positive."""

    def __init__(self, x: Tensor, outer: Outer, *, nan_is_positive: bool) -> None:
        """Take the bits of a storage as a matrix."""
        self._shape, self._dtype = x.shape, x.dtype
        x = x.nan_to_num(nan=1.0) if nan_is_positive else x
        self._kept = Parcel(ops.sign_mask(x), outer)

    def tensor(self) -> Tensor:
        """1 where the element is positive, else 0."""
        mask = self._kept.tensor()
        ones = torch.ones(self._shape, dtype=self._dtype, device=mask.device)
        return ops.leaky_relu_backward(ones, mask, negative_slope=0.0)
