"""What a saved tensor's storage is packed as, and how it is unpacked.

Everything that stays in memory goes through `OuterHooks`, the saved-tensor hooks around the block:
PyTorch calls only the innermost hooks, so otherwise a meter or an offloader would see nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.quantization import Quantizer


@dataclass(frozen=True)
class OuterHooks:
    """The saved-tensor hooks around a block; by default there are none."""

    pack: Callable[[Tensor], Any] = staticmethod(lambda tensor: tensor)
    unpack: Callable[[Any], Tensor] = staticmethod(lambda packed: packed)

    @classmethod
    def current(cls) -> OuterHooks:
        """Return the innermost saved-tensor hooks of this thread."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        return cls(*hooks) if hooks else _NO_HOOKS

    def keep(self, tensor: Tensor) -> Kept | OuterPacked:
        """Pack a tensor without autograd history."""
        return Kept(tensor) if self is _NO_HOOKS else OuterPacked(tensor, self)


_NO_HOOKS = OuterHooks()


class Kept:
    """A tensor that no hooks pack."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def unpack(self) -> Tensor:
        """Return the tensor."""
        return self._tensor


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

    __slots__ = ("__weakref__", "_is_strided", "_packed", "_version", "shape", "storage")

    def __init__(self, tensor: Tensor, outer: OuterHooks) -> None:
        self._version, self.shape = tensor._version, tensor.shape
        self._is_strided = tensor.layout is torch.strided
        self.storage = tensor.untyped_storage()._cdata if self._is_strided else 0
        self._packed = outer.keep(tensor)

    def unpack(self) -> Tensor:
        """Return the tensor.

        Raises:
            RuntimeError: It has been changed in place.
        """
        tensor = self._packed.unpack()
        is_copy = self._is_strided and tensor.untyped_storage()._cdata != self.storage
        if not is_copy and tensor._version != self._version:
            raise RuntimeError(
                f"a tensor of shape {tuple(self.shape)} that backward needs (a parameter, rows "
                "gathered from it, or an activation that compressed_saves keeps as it is) has been "
                f"modified in place since forward: it is at version {tensor._version}, expected "
                f"version {self._version}. Call backward before the optimizer steps"
            )
        return tensor


class Codes:
    """The low-bit codes of a storage, given as a matrix (N, D)."""

    __slots__ = ("_bits", "_columns", "_dtype", "_packed")

    def __init__(self, x: Tensor, quantizer: Quantizer, stream: Tensor, outer: OuterHooks) -> None:
        self._columns, self._dtype, self._bits = x.shape[1], x.dtype, quantizer.bits
        stochastic = quantizer.rounding == "stochastic"
        parts = ops.quantize(x, stream, bits=quantizer.bits, stochastic=stochastic)
        self._packed = [outer.keep(tensor) for tensor in parts]

    def unpack(self) -> Tensor:
        """Return the estimate (N, D)."""
        codes, minimum, step = (packed.unpack() for packed in self._packed)
        return ops.dequantize(
            codes, minimum, step, num_columns=self._columns, bits=self._bits, dtype=self._dtype
        )


class Signs:
    """One bit per element of a storage, given as a matrix (N, D): whether it is positive."""

    def __init__(self, x: Tensor, outer: OuterHooks, *, nan_is_positive: bool) -> None:
        self._shape, self._dtype = x.shape, x.dtype
        x = x.nan_to_num(nan=1.0) if nan_is_positive else x
        self._packed = outer.keep(ops.sign_mask(x))

    def unpack(self) -> Tensor:
        """Return 1 where the element is positive, else 0."""
        mask = self._packed.unpack()
        ones = torch.ones(self._shape, dtype=self._dtype, device=mask.device)
        return ops.leaky_relu_backward(ones, mask, negative_slope=0.0)
