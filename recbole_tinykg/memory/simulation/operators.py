"""What PyTorch knows about its operators: what they are composed of, write to and return.

Much of it only PyTorch's dispatcher knows. The private functions to ask it are all called here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten

FACTORIES = ("empty", "zeros", "ones", "full", "empty_strided")
"""Operators that make a tensor from no other."""

_LIKE = ("empty", "zeros", "ones", "full", "rand", "randn")
_NEW = ("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
_WHOLE = {*FACTORIES, *_NEW, *(f"{name}_like" for name in _LIKE), "bernoulli", "index_put"}
"""Compositions of other operators that need not be taken apart."""

_IN_PLACE_IN_BACKWARD = ("add", "index_put", "_index_put_impl", "scatter", "scatter_add")
"""Operators that backward calls in place where no dispatch mode is active."""

_ALIASES = ("_unsafe_view", "_reshape_alias")
_UNKNOWN_SHAPE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ENGINE = torch.autograd.graph._engine_run_backward.__code__
_BETWEEN = (str(Path(__file__).parent), str(Path(torch.__file__).parent / "_"))


def name_of(func: OpOverload) -> str:
    """Return the name of an operator without namespace and overload."""
    return str(func._schema.name).partition("::")[2]


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors among arguments or results."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def computes_nothing(func: OpOverload) -> bool:
    """Whether an operator returns or changes shapes only."""
    is_view = func.is_view or torch.Tag.inplace_view in func.tags
    name = name_of(func)
    return is_view or name in _ALIASES or name.startswith("_sparse_coo_tensor")


def composition_of(func: OpOverload) -> Callable[..., Any] | None:
    """Return the operator as a composition of others, if it is one on every device."""
    name = func.name()
    if not name.startswith("aten::") or name_of(func) in _WHOLE:
        return None
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if has_kernel(name, DispatchKey.CPU):
        return None
    keys = [DispatchKey.CompositeImplicitAutograd]
    if not func._schema.is_mutable:  # others may be composed of one that writes
        keys.append(DispatchKey.CompositeExplicitAutograd)
    for key in keys:
        if has_kernel(name, key):
            return functools.partial(func._op_dk, key)
    return None


def written_arguments(func: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments that an operator writes to, by the name of their alias set."""
    written = {}
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            written[alias_of(argument)] = given
    return written


def alias_of(argument: Any) -> str:
    """Return the name of the alias set of an argument or a result in a schema."""
    return next(iter(argument.alias_info.before_set), str(argument.name))  # a list has no set


def shape_of(leaf: Any) -> Any:
    """Replace a tensor with one on `meta`, a device with `meta`; return anything else."""
    if isinstance(leaf, Tensor):
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def has_shape_by_values(func: OpOverload, kwargs: Any) -> bool:
    """Whether a result's shape depends on values of arguments other than masks as indices."""
    if name_of(func) == "repeat_interleave" and kwargs.get("output_size") is not None:
        return False
    return bool(_UNKNOWN_SHAPE & set(func.tags))


def is_in_place_in_backward(func: OpOverload, args: Any) -> bool:
    """Whether autograd, without a mode, would write the result into the first argument."""
    if name_of(func) not in _IN_PLACE_IN_BACKWARD or torch._C._current_graph_task_id() == -1:
        return False
    first = args[0]
    if first._is_view() or not torch.ops.aten.is_non_overlapping_and_dense(first):
        return False
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is None or frame.f_code is _ENGINE  # not in a backward written in Python
