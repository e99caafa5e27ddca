"""Decorators of compressed functions: no second derivatives, no autocast inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from recbole_tinykg.quantization import StepSites


def refuse_double_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Raise a clear error when the user asks for a second derivative."""

    @wraps(backward)
    def guarded(ctx: Any, *grads: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph must be False for compressed functions; got True: codes of the "
                "activations cannot give second derivatives. Use the stock model"
            )
        with torch.autocast(grads[0].device.type, enabled=False):
            return backward(ctx, *grads)

    return guarded


def autocast_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the type of a linear layer's output: that of `torch.autocast`, else the tensor's."""
    device = tensor.device.type
    if tensor.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function in the precision of its parameters; an argument is a tensor or `StepSites`."""

    @wraps(function)
    def in_full_precision(*args: Any, **kwargs: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, torch.Tensor | StepSites))
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return in_full_precision
