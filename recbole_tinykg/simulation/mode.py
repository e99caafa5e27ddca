"""The dispatch mode: runs operators on known values, and gives shapes to all others.

What a call does:

==================================  =======================================================
view, or change of shape in place    is run: it computes no numbers
all arguments known                  is run
composed of other operators          its parts are looked at, so that what it holds is counted
writes to its arguments only         is left out; what it writes to is hollow
`isnan`, `isinf`                     no value is: training stops at others anyway
one hollow argument or more          is left out; hollow results of its shape rule's shape
==================================  =======================================================

Large zeros and the like are hollow from the start: it is not their values that shapes depend on.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from recbole_tinykg.errors import UserError
from recbole_tinykg.simulation import sparse
from recbole_tinykg.simulation.hollow import HollowTensors, dense_parts
from recbole_tinykg.simulation.ledger import Ledger
from recbole_tinykg.simulation.workspace import workspace_bytes

CUDA_BLOCK_BYTES = 512
"""PyTorch's CUDA allocator hands out multiples of it."""

_LARGE_BYTES = 2**20
_FACTORIES = ("empty", "zeros", "ones", "full", "empty_strided")
_LIKE = ("empty", "zeros", "ones", "full", "rand", "randn", "new_empty", "new_zeros", "new_full")
_MADE_LIKE = {*(f"{name}_like" for name in _LIKE), *(n for n in _LIKE if n.startswith("new"))}
_WHOLE = {*_MADE_LIKE, *_FACTORIES, "new_ones", "new_empty_strided", "bernoulli", "index_put"}
"""Written by composition, but nothing comes of looking inside."""

_SPARED = ("add", "index_put", "_index_put_impl", "scatter", "scatter_add")
"""Operators of backward that autograd calls in their in-place form where no mode is on."""

_ALIASES = ("_unsafe_view", "_reshape_alias")
_READERS = ("tolist", "numpy", "__array__", "__dlpack__")
_UNKNOWN_SHAPE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ENGINE = torch.autograd.graph._engine_run_backward.__code__


class SimulationError(UserError):
    """A step whose memory depends on values that a simulation does not have."""


class Simulation(TorchDispatchMode):
    """Runs what is in its `with` block without numbers, and counts its memory.

    Args:
        block_bytes: An allocation takes a multiple of so many bytes.
    """

    def __init__(self, block_bytes: int = 1) -> None:
        """Begin with all values known, and without counting."""
        super().__init__()
        self._hollow = HollowTensors()
        self._ledger = Ledger(block_bytes)
        self._inside: list[Any] = []  # composed operators with hollow arguments
        self._may_read = False
        self._guards: list[ExitStack] = []

    def forget(self, *tensors: Tensor) -> None:
        """Take values as unknown, and all that is computed from them."""
        for tensor in tensors:
            self._hollow.add(tensor)

    def start(self) -> None:
        """Count what is allocated from now on."""
        self._ledger.start()

    def stop(self) -> None:
        """Count no more: `peak_bytes` stays."""
        self._ledger.stop()

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were there at once since `start`."""
        return self._ledger.peak_bytes

    @contextmanager
    def unknown_is_zero(self) -> Iterator[None]:
        """In the block, an unknown number that is read is 0: for a loop that prints its loss."""
        previous, self._may_read = self._may_read, True
        try:
            yield
        finally:
            self._may_read = previous

    @contextmanager
    def unknown_is_refused(self) -> Iterator[None]:
        """In the block, as at first, an unknown number that is read raises SimulationError."""
        previous, self._may_read = self._may_read, False
        try:
            yield
        finally:
            self._may_read = previous

    def __enter__(self) -> Simulation:
        """Stand under PyTorch's operators."""
        stack = ExitStack()
        stack.enter_context(_ReadingGuard(self._hollow))
        self._guards.append(stack)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave."""
        super().__exit__(*error)
        self._guards.pop().close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, or find what it would give."""
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        if _name(func) == "lift_fresh":  # of a tensor that Python has just made
            self._count(func, args, [], tensors)
            return func(*args, **kwargs)
        if self._is_shape_only(func):
            result = func(*args, **kwargs)
        elif self._is_known(func, args, kwargs, tensors):
            result = func(*args, **kwargs)
        elif func not in self._inside and (parts := _composition(func)) is not None:
            return self._look_inside(func, parts, args, kwargs)
        else:
            result = self._without_numbers(func, args, kwargs, tensors)
        self._count(func, args, tensors, _tensors(result))
        return result

    def _is_shape_only(self, func: OpOverload) -> bool:
        is_view = func.is_view or torch.Tag.inplace_view in func.tags
        return is_view or _name(func) in _ALIASES or _name(func).startswith("_sparse_coo_tensor")

    def _is_known(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        if tensors:
            return not any(tensor in self._hollow for tensor in tensors)
        if _name(func) not in _FACTORIES:
            return True
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        num_bytes = math.prod(args[0]) * dtype.itemsize
        return not (dtype.is_floating_point and (self._inside or num_bytes >= _LARGE_BYTES))

    def _look_inside(self, func: Any, parts: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._inside.append(func)
        try:
            with self:
                return parts(*args, **kwargs)
        finally:
            self._inside.pop()

    def _without_numbers(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        name = _name(func)
        if name in ("isnan", "isinf"):
            return torch.zeros(tensors[0].shape, dtype=torch.bool, device=tensors[0].device)
        if name == "_local_scalar_dense" and self._may_read:
            return 0
        written = _written(func, args, kwargs)
        self.forget(*(tensor for tensor in _tensors(list(written.values()))))
        if written and all(r.alias_info is not None for r in func._schema.returns):
            returned = [written[_alias(r)] for r in func._schema.returns]
            return returned[0] if len(returned) == 1 else tuple(returned) or None
        if any(map(sparse.is_sparse, tensors)):
            return self._sparse(func, args, kwargs)
        return self._by_shape_rule(func, args, kwargs, tensors)

    def _sparse(self, func: Any, args: Any, kwargs: Any) -> Any:
        shape = sparse.product_shape(func, args)
        if shape is not None:
            return self._hollow.like(shape, args[-1].device)
        args, kwargs = tree_map(
            lambda x: sparse.stand_in(x) if isinstance(x, Tensor) and sparse.is_sparse(x) else x,
            (args, kwargs),
        )
        if any(tensor in self._hollow for tensor in _tensors((args, kwargs))):
            raise _refusal(func, "it has no shape rule")
        result = func(*args, **kwargs)
        self.forget(*_tensors(result))
        return result

    def _by_shape_rule(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if _name(func).startswith(("index", "_index_put", "_unsafe_index")):
            args = tuple(self._with_positions(func, arg) for arg in args)
        elif _UNKNOWN_SHAPE & set(func.tags) and not _has_given_size(func, kwargs):
            raise _refusal(func, "its result depends on values")
        device = tensors[0].device if tensors else torch.device("cpu")
        device = torch.device(kwargs.get("device") or device)
        leaves, structure = tree_flatten((args, kwargs))
        shapes = [_shape_of(leaf) for leaf in leaves]
        of_shape = {id(s): t for s, t in zip(shapes, leaves, strict=True) if isinstance(t, Tensor)}
        args, kwargs = tree_unflatten(shapes, structure)
        if "device" in kwargs or not tensors:
            kwargs = {**kwargs, "device": torch.device("meta"), "pin_memory": None}
        try:
            result = func(*args, **kwargs)
        except NotImplementedError as error:
            raise _refusal(func, "it has no shape rule") from error

        def tensor_of(shape: Any) -> Any:
            if not isinstance(shape, Tensor):
                return shape
            return of_shape.get(id(shape), None) or self._hollow.like(shape, device)

        return tree_map(tensor_of, result)

    def _with_positions(self, func: Any, arg: Any) -> Any:
        """An argument with masks replaced by positions, which are what shapes follow from."""
        if not isinstance(arg, list | tuple):
            return arg
        positions: list[Any] = []
        for part in arg:
            is_mask = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
            if is_mask and part in self._hollow:
                raise _refusal(func, "its result depends on values")
            positions += part.nonzero().unbind(1) if is_mask else [part]
        return positions

    def _count(self, func: Any, args: Any, arguments: list[Tensor], results: list[Tensor]) -> None:
        old = {part.untyped_storage()._cdata for t in arguments for part in dense_parts(t)}
        parts = [part for result in results for part in dense_parts(result)]
        storages = [part.untyped_storage() for part in parts]
        tentative = _name(func) in _SPARED and _could_write(args)
        for storage in storages:
            if storage._cdata not in old:
                self._ledger.allocate(storage, tentative=tentative)
        if not func.is_view:
            self._ledger.pass_through(workspace_bytes(func, args, results))


class _ReadingGuard(TorchFunctionMode):
    """Refuses what reads a hollow tensor's memory past the operators."""

    def __init__(self, hollow: HollowTensors) -> None:
        super().__init__()
        self._hollow = hollow

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at what is called, and call it."""
        if getattr(func, "__name__", "") in _READERS and args and args[0] in self._hollow:
            raise SimulationError(_message(f"Tensor.{func.__name__}", "it reads values"))
        return func(*args, **(kwargs or {}))


def _name(func: Any) -> str:
    """Name of an operator without namespace and overload."""
    return str(func._schema.name).partition("::")[2]


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]


def _composition(func: Any) -> Callable[..., Any] | None:
    """The operator as a composition of others, if it is one on every device."""
    name = func.name()
    if not name.startswith("aten::") or _name(func) in _WHOLE:
        return None
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if has_kernel(name, DispatchKey.CPU):
        return None
    keys = [DispatchKey.CompositeImplicitAutograd]
    if not func._schema.is_mutable:  # one that writes may be what others are composed of
        keys.append(DispatchKey.CompositeExplicitAutograd)
    for key in keys:
        if has_kernel(name, key):
            return functools.partial(func._op_dk, key)
    return None


def _written(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments that an operator writes to, by the name of their alias set."""
    written = {}
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            written[_alias(argument)] = given
    return written


def _alias(argument: Any) -> str:
    return next(iter(argument.alias_info.before_set), str(argument.name))  # a list has no set


def _shape_of(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


def _has_given_size(func: Any, kwargs: Any) -> bool:
    return _name(func) == "repeat_interleave" and kwargs.get("output_size") is not None


def _could_write(args: Any) -> bool:
    """Whether autograd, with no mode on, would write the result into the first argument."""
    if torch._C._current_graph_task_id() == -1:
        return False
    first = args[0]
    if first._is_view() or not torch.ops.aten.is_non_overlapping_and_dense(first):
        return False
    frame = sys._getframe(1)
    while frame is not None and _is_dispatch(frame.f_code):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is None or frame.f_code is _ENGINE  # not in a backward written in Python


def _is_dispatch(code: Any) -> bool:
    in_package = code.co_filename.startswith(__file__.removesuffix("mode.py"))
    return in_package or code.co_filename.endswith(("torch/_compile.py", "eval_frame.py"))


def _refusal(func: Any, reason: str) -> SimulationError:
    return SimulationError(_message(str(func), reason))


def _message(what: str, reason: str) -> str:
    return (
        f"the model's step cannot be simulated: {what} on values that are not computed, and "
        f"{reason}; --measure runs the step instead"
    )
