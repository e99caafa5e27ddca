"""What the derivative of an operation needs of the tensors that the operation saves.

An operation that is not listed here is taken to need its saved tensors exactly: its derivative may
be anything, and codes in a nonlinear place would be an unnoticed bias. Listed are operations whose
derivative is *linear* in the saved tensor, so that an unbiased estimate is on average as good as
the tensor, and those that read only a *sign*.

    operation              derivative                       read from
    mul, mm, conv, ...     g b, g a                         codes of a and of b
    div a / b              g / b, -g a / b^2                codes of a, b exactly
    exp                    g y                              codes of y
    pow x^2                2 g x                            codes of x
    |x|_2                  g x / |x|                        codes of x, |x| exactly
    leaky_relu             g where x > 0                    one bit
    relu                   g unless x <= 0, so where NaN    one bit

`x / |x|` (normalise) saves x twice, for the division and for the norm, and a chain of derivatives
meets both: the norm reads codes of a second, independent draw.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch._ops import OpOverload


class Need(enum.Enum):
    """What a derivative needs of a saved tensor."""

    NOTHING = enum.auto()
    VALUE = enum.auto()  # an unbiased estimate
    SECOND = enum.auto()  # an unbiased estimate independent of the first
    SIGN = enum.auto()  # where it is positive
    SIGN_OR_NAN = enum.auto()  # where it is positive or NaN
    EXACT = enum.auto()


_LINEAR = frozenset(
    "mul mm bmm mv dot addmm addbmm baddbmm addmv addr linear convolution mse_loss addcmul".split()
)
# Operations that always save their output, once, if they have a node: later saves are of others.
_OUTPUT_NEEDS = {"exp": Need.VALUE, "relu": Need.SIGN_OR_NAN, "leaky_relu": Need.SIGN}
_GATHERS = frozenset(("embedding", "index_select", "index", "_to_copy"))
_CHEAP = frozenset(("add", "sub", "neg", "cat", "stack"))


def need_of_argument(func: OpOverload | None, args: tuple[Any, ...], tensor: Tensor) -> Need:
    """Return what `func(*args)` needs of a tensor saved for it: all if it is not in `args`."""
    if func is None:
        return Need.EXACT
    positions = [position for position, arg in enumerate(args) if arg is tensor]
    needs = {_need_at(base_name(func), args, position) for position in positions}
    return needs.pop() if len(needs) == 1 else Need.EXACT


def _need_at(name: str, args: tuple[Any, ...], position: int) -> Need:
    if name in _LINEAR or (name == "div" and position == 0):
        return Need.VALUE
    if name == "pow" and position == 0 and isinstance(args[1], int | float) and args[1] == 2:
        return Need.VALUE
    if name == "linalg_vector_norm" and (len(args) == 1 or args[1] == 2):
        return Need.SECOND
    return Need.SIGN if name == "leaky_relu" else Need.EXACT


def need_of_output(func: OpOverload, node: Any) -> Need:
    """Return what `func`, whose autograd node is `node`, needs of its own output if it saves it."""
    if not _may_save_output(func, type(node)):  # type: ignore[arg-type]
        return Need.NOTHING
    return _OUTPUT_NEEDS.get(base_name(func), Need.EXACT)


@functools.cache
def _may_save_output(func: OpOverload, node_class: Any) -> bool:
    """Whether a node has `_saved_<name>` for an output; unnamed ones are called result, result1."""
    names = {returned.name or "result" for returned in func._schema.returns}
    names |= {f"result{i}" for i in range(len(func._schema.returns))} | {"result", "out", "output"}
    return any(f"_saved_{name}" in dir(node_class) for name in names)


@functools.cache
def base_name(func: OpOverload) -> str:
    """Return the name of an operation: PyTorch's without `_`, others with their namespace."""
    namespace, name = func._schema.name.split("::")
    return name.rstrip("_") if namespace == "aten" else func._schema.name


def written_tensors(func: OpOverload, args: tuple[Any, ...], kwargs: Any) -> Iterator[Tensor]:
    """Yield the tensors that `func(*args, **kwargs)` changes in place, `out` among them."""
    for position, name in _written_arguments(func):
        value = args[position] if position < len(args) else kwargs.get(name)
        yield from value if isinstance(value, list | tuple) else [] if value is None else [value]


@functools.cache
def _written_arguments(func: OpOverload) -> tuple[tuple[int, str], ...]:
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def is_gather(func: OpOverload) -> bool:
    """Whether an operation only copies numbers of its first argument, and can be repeated."""
    return base_name(func) in _GATHERS


def is_cheap(func: OpOverload) -> bool:
    """Whether an operation, not in place, costs little to repeat given its arguments."""
    return base_name(func) in _CHEAP and not func._schema.is_mutable
