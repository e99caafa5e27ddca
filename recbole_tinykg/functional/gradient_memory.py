"""The memory of a table's gradient, step after step the same.

An embedding table has a dense gradient as large as itself. Freed after every step, it may come back
from the operating system page by page: up to 950 page faults in a step of KGCN on ml-100k, whose
table has 9 MB, and hardly any when it stays. So `give_back`, in the place of
`parameter.grad = None`, leaves the memory with its parameter, and `zero_gradient` takes it for the
next gradient. Between the two it is nobody's: memory that anybody else still sees stays theirs, and
the parameter gets new one. A GPU's allocator does the same by itself.

A step's peak, in backward, is what it was; but the memory is not free in the forward pass either.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

SMALLEST = 2**20
"""Bytes of a gradient from which on its memory is kept; smaller ones come from warm memory."""

_ATTRIBUTE = "_spare_gradient"


def give_back(parameter: Tensor) -> None:
    """Drop a parameter's gradient; its memory waits for `zero_gradient` if nobody else uses it."""
    if _is_worth_keeping(parameter.grad) and _users(parameter) == _users_of_a_new_gradient():
        setattr(parameter, _ATTRIBUTE, parameter.grad)
    parameter.grad = None


def zero_gradient(parameter: Tensor) -> Tensor:
    """Zeros like a parameter, in the memory that `give_back` has left, if it has."""
    spare = parameter.__dict__.pop(_ATTRIBUTE, None)
    if spare is None or _kind(spare) != _kind(parameter):
        return torch.zeros_like(parameter)
    return spare.zero_()


def _is_worth_keeping(gradient: Tensor | None) -> bool:
    return (
        gradient is not None
        and gradient.device.type == "cpu"
        and gradient.layout == torch.strided
        and gradient.is_contiguous()
        and gradient.nbytes == gradient.untyped_storage().nbytes() >= SMALLEST
    )


def _kind(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def _users(parameter: Tensor) -> tuple[int, int]:
    """How many names a gradient has, and how many tensors its memory."""
    gradient = parameter.grad
    assert gradient is not None
    storage = gradient.untyped_storage()
    return sys.getrefcount(gradient), torch._C._storage_Use_Count(storage._cdata)


def _users_of_a_new_gradient() -> tuple[int, int]:
    """The same for a gradient that certainly nobody else uses."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    return _users(parameter)
