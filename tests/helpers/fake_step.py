"""A twin's step on fake tensors: what reads a number, or has a shape that depends on one, fails.

PyTorch's `FakeTensorMode` computes shapes only. `unique`, `nonzero`, `bincount`, `item`, `tolist`
and `repeat_interleave` without a size cannot be computed so, and those are what a CUDA graph cannot
hold. Fake tensors are on the CPU, since a PyTorch without CUDA has no gradients on fake CUDA
tensors; what would be a copy between host and device is refused by name. `meta_step` runs the same
on a device that is not the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.twin_case import total
from recbole_tinykg.compat import replaced

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


class OneDevice(TorchDispatchMode):
    """Refuses operators that take or give a tensor of another device."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._device_type = device_type

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor) and leaf.device.type != self._device_type:
                raise RuntimeError(f"{func} meets a tensor on {leaf.device} in a step")
        return result


def fake_step(model: nn.Module, loss: str, batch: Interaction) -> dict[str, torch.Size]:
    """Compute a loss and its gradients on fake tensors; return the shapes of the gradients."""
    mode = FakeTensorMode()
    fake, columns = _converted(model, batch, mode.from_tensor)
    with mode, NoCopies():
        value = total(getattr(fake, loss)(columns))
        value.backward()
    assert isinstance(value, torch._subclasses.FakeTensor)
    return {n: p.grad.shape for n, p in fake.named_parameters() if p.grad is not None}


def meta_step(model: nn.Module, loss: str, batch: Interaction) -> torch.device:
    """Compute a loss and its gradients on PyTorch's `meta` device; return that of the loss.

    It has shapes and no numbers, as fake tensors, but is a device that is no CPU: code asks
    `device.type` and takes the way of a GPU, and a tensor that was made on the host is found.
    """
    on_meta, columns = _converted(model, batch, lambda tensor: tensor.to("meta"))
    no_autocast = {  # which knows no such device
        "autocast": lambda *_, **__: nullcontext(),
        "is_autocast_enabled": lambda _: False,
    }
    with replaced(torch, **no_autocast), OneDevice("meta"):
        value = total(getattr(on_meta, loss)(columns))
        value.backward()
    return value.device


def _converted(
    model: nn.Module, batch: Interaction, convert: Callable[[Tensor], Tensor]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a copy of a model, tensor by tensor, and the columns of a batch."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(convert(parameter.detach()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = convert(buffer)
    return model, {name: convert(column) for name, column in batch.interaction.items()}
