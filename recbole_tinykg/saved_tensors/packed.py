"""What a saved tensor's storage is packed as, and how it is unpacked.

Everything that stays in memory goes through `OuterHooks`, the saved-tensor hooks around the block:
PyTorch calls only the innermost hooks, so otherwise a meter or an offloader would see nothing.
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
class OuterHooks:
    """The saved-tensor hooks around a block; by default there are none."""

    pack: Callable[[Tensor], Any] = staticmethod(lambda tensor: tensor)
    unpack: Callable[[Any], Tensor] = staticmethod(lambda packed: packed)

    @classmethod
    def current(cls) -> OuterHooks:
        """Return the innermost saved-tensor hooks of this thread."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        return cls(*hooks) if hooks else cls()


class OuterPacked:
    """A tensor packed by the outer hooks, which unpack it once however often it is read.

    Several operations share what a storage is packed as, but checkpoint unpacks nothing twice.

    Args:
        tensor: Has no autograd history.
        outer: The hooks.
    """

    def __init__(self, tensor: Tensor, outer: OuterHooks) -> None:
        self._outer, self._packed = outer, outer.pack(tensor)
        self._unpacked: Tensor | None = None

    def unpack(self) -> Tensor:
        """Return the tensor, or what the hooks made of it."""
        if self._unpacked is None:
            self._unpacked = self._outer.unpack(self._packed)
        return self._unpacked


class Packed(Protocol):
    """Stands for the numbers of a storage."""

    def unpack(self) -> Tensor:
        """Return the numbers, exact or estimated."""


class Reference:
    """A tensor as it is, without autograd history; changing it is an error, as in autograd."""

    def __init__(self, tensor: Tensor, outer: OuterHooks) -> None:
        self._version, self.shape = tensor._version, tuple(tensor.shape)
        self._is_strided = tensor.layout is torch.strided
        self.storage = tensor.untyped_storage()._cdata if self._is_strided else 0
        self._packed = OuterPacked(tensor, outer)

    def unpack(self) -> Tensor:
        """Return the tensor.

        Raises:
            RuntimeError: It has been changed in place.
        """
        tensor = self._packed.unpack()
        is_copy = self._is_strided and tensor.untyped_storage()._cdata != self.storage
        if not is_copy and tensor._version != self._version:
            raise RuntimeError(
                f"a tensor of shape {self.shape} that backward needs (a parameter, rows gathered "
                "from it, or an activation that compressed_saves keeps as it is) has been modified "
                f"in place since forward: it is at version {tensor._version}, expected version "
                f"{self._version}. Call backward before the optimizer steps"
            )
        return tensor


class Codes:
    """The low-bit codes of a storage, given as a matrix (N, D)."""

    def __init__(self, x: Tensor, quantizer: Quantizer, stream: Tensor, outer: OuterHooks) -> None:
        quantized = quantizer.quantize(x, stream)
        self._layout: Layout = quantized.layout
        self._packed = [OuterPacked(tensor, outer) for tensor in quantized.tensors()]
        self._last: Callable[[], Tensor | None] = lambda: None

    def unpack(self) -> Tensor:
        """Return the estimate (N, D), one tensor for all that hold it at the same time."""
        if (tensor := self._last()) is None:
            parts = (packed.unpack() for packed in self._packed)
            tensor = Quantized.unflatten(parts, self._layout).dequantize()
            self._last = weakref.ref(tensor)
        return tensor


class Signs:
    """One bit per element of a storage, given as a matrix (N, D): whether it is positive."""

    def __init__(self, x: Tensor, outer: OuterHooks, *, nan_is_positive: bool) -> None:
        self._shape, self._dtype = x.shape, x.dtype
        x = x.nan_to_num(nan=1.0) if nan_is_positive else x
        self._packed = OuterPacked(ops.sign_mask(x), outer)

    def unpack(self) -> Tensor:
        """Return 1 where the element is positive, else 0."""
        mask = self._packed.unpack()
        ones = torch.ones(self._shape, dtype=self._dtype, device=mask.device)
        return ops.leaky_relu_backward(ones, mask, negative_slope=0.0)
