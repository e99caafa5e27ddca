"""A twin's step on fake tensors: what reads a number, or has a shape that depends on one, fails.

PyTorch's `FakeTensorMode` computes shapes only. `unique`, `nonzero`, `bincount`, `item`, `tolist`
and `repeat_interleave` without a size cannot be computed so, and those are what a CUDA graph cannot
hold. The tensors are on the CPU, since a PyTorch without CUDA has no gradients on another device;
so what would be a copy between host and device is refused by name.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from helpers.twin_case import total

_COPIES = ("tensor", "as_tensor", "from_numpy", "new_tensor", "cpu", "numpy", "tolist", "item")


class NoCopies(TorchFunctionMode):
    """Refuses calls that copy between host and device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _COPIES or (name == "__getitem__" and _holds_list(args[1])):
            raise RuntimeError(f"{name} copies between host and device in a step")
        return func(*args, **(kwargs or {}))


def _holds_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(map(_holds_list, index)))


def fake_step(model: nn.Module, loss: str, batch: Interaction) -> dict[str, torch.Size]:
    """Compute a loss and its gradients on fake tensors; return the shapes of the gradients."""
    mode = FakeTensorMode()
    fake = copy.deepcopy(model)
    for module in fake.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(parameter.detach()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)
    columns: dict[str, Any] = {k: mode.from_tensor(v) for k, v in batch.interaction.items()}
    with mode, NoCopies():
        value = total(getattr(fake, loss)(columns))
        value.backward()
    assert isinstance(value, torch._subclasses.FakeTensor)
    return {n: p.grad.shape for n, p in fake.named_parameters() if p.grad is not None}
