"""The dispatch mode: runs operators on known values, and only the shape rules of all others.

What it does with a call, the first line that fits:

==================================  =======================================================
view, or change of shape in place    run: it computes no numbers
all arguments known                  run
composed of other operators          taken apart, so that what its parts allocate is counted
`isnan`, `isinf`                     False everywhere: training would stop at such values
writes to its arguments only         not run; what it writes to becomes unknown
any other                            not run; results of its shape rule's shape, unknown
==================================  =======================================================

Large tensors of zeros and the like are unknown from the start: no shape depends on their values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from recbole_tinykg.memory.meter import storages_of
from recbole_tinykg.memory.simulation import sparse
from recbole_tinykg.memory.simulation.allocations import Allocations
from recbole_tinykg.memory.simulation.fake_storage import UnknownTensors
from recbole_tinykg.memory.simulation.operators import (
    FACTORIES,
    alias_of,
    composition_of,
    computes_nothing,
    has_shape_by_values,
    is_in_place_in_backward,
    name_of,
    shape_of,
    tensors_in,
    written_arguments,
)
from recbole_tinykg.memory.simulation.read_guard import ReadGuard, refusal
from recbole_tinykg.memory.simulation.workspace import workspace_bytes

CUDA_BLOCK_BYTES = 512
"""PyTorch's CUDA allocator hands out multiples of this."""

_LARGE_BYTES = 2**20


class Simulation(TorchDispatchMode):
    """Runs what is in its `with` block without numbers, and counts its memory.

    All values are known until `forget`, and nothing is counted until `start`.

    Args:
        block_bytes: Every allocation takes a multiple of this.
    """

    def __init__(self, block_bytes: int = 1) -> None:
        super().__init__()
        self._unknown = UnknownTensors()
        self._allocations = Allocations(block_bytes)
        self._inside: list[OpOverload] = []  # composed operators that are taken apart
        self._may_read = False
        self._guard = ReadGuard(self._unknown)

    def forget(self, *tensors: Tensor) -> None:
        """Take the values of tensors, and all that is computed from them, as unknown."""
        for tensor in tensors:
            self._unknown.add(tensor)

    def start(self) -> None:
        """Count what is allocated from now on."""
        self._allocations.start()

    def stop(self) -> None:
        """Stop counting: `peak_bytes` stays."""
        self._allocations.stop()

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were allocated at once since `start`."""
        return self._allocations.peak_bytes

    def unknown_is_zero(self) -> AbstractContextManager[None]:
        """Let an unknown number read as 0 in the block: for a loop that prints its loss."""
        return self._reading(True)

    def unknown_is_refused(self) -> AbstractContextManager[None]:
        """Let reading an unknown number raise SimulationError in the block, as it does at first."""
        return self._reading(False)

    @contextmanager
    def _reading(self, is_allowed: bool) -> Iterator[None]:
        previous, self._may_read = self._may_read, is_allowed
        try:
            yield
        finally:
            self._may_read = previous

    def __enter__(self) -> Simulation:
        self._guard.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._guard.__exit__(*error)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        if name_of(func) == "lift_fresh":  # of a tensor that Python has just made
            self._count(func, args, [], tensors)
            return func(*args, **kwargs)
        only_shapes = computes_nothing(func) and not self._copies(func, tensors)
        if only_shapes or self._is_known(func, args, kwargs, tensors):
            result = func(*args, **kwargs)
        elif func not in self._inside and (parts := composition_of(func)) is not None:
            self._inside.append(func)
            try:
                with self:
                    return parts(*args, **kwargs)
            finally:
                self._inside.pop()
        else:
            result = self._without_numbers(func, args, kwargs, tensors)
        self._count(func, args, tensors, tensors_in(result))
        return result

    def _copies(self, func: OpOverload, tensors: list[Tensor]) -> bool:
        """Whether a "view" copies: all views of a sparse tensor do but its parts and itself."""
        is_part = name_of(func) in sparse.PARTS
        return not is_part and any(sparse.is_sparse(t) and t in self._unknown for t in tensors)

    def _is_known(self, func: OpOverload, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        if tensors:
            return not any(tensor in self._unknown for tensor in tensors)
        if name_of(func) not in FACTORIES:
            return True
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        num_bytes = math.prod(args[0]) * dtype.itemsize
        return not (dtype.is_floating_point and (self._inside or num_bytes >= _LARGE_BYTES))

    def _without_numbers(
        self, func: OpOverload, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> Any:
        name = name_of(func)
        if name in ("isnan", "isinf"):
            return torch.zeros(tensors[0].shape, dtype=torch.bool, device=tensors[0].device)
        if name == "_local_scalar_dense" and self._may_read:
            return 0
        written = written_arguments(func, args, kwargs)
        self.forget(*(tensor for tensor in tensors_in(list(written.values()))))
        if written and all(r.alias_info is not None for r in func._schema.returns):
            returned = [written[alias_of(r)] for r in func._schema.returns]
            return returned[0] if len(returned) == 1 else tuple(returned) or None
        if any(map(sparse.is_sparse, tensors)):
            return self._sparse(func, args, kwargs)
        return self._by_shape_rule(func, args, kwargs, tensors)

    def _sparse(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        shape = sparse.product_shape(func, args)
        if shape is not None:
            return self._unknown.like(shape, args[-1].device)
        args, kwargs = tree_map(
            lambda x: sparse.stand_in(x) if isinstance(x, Tensor) and sparse.is_sparse(x) else x,
            (args, kwargs),
        )
        if any(tensor in self._unknown for tensor in tensors_in((args, kwargs))):
            raise refusal(func, "its result depends on values")
        result = func(*args, **kwargs)
        self.forget(*tensors_in(result))
        return result

    def _by_shape_rule(
        self, func: OpOverload, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> Any:
        if name_of(func).startswith(("index", "_index_put", "_unsafe_index")):
            args = tuple(self._with_positions(func, arg) for arg in args)
        elif has_shape_by_values(func, kwargs):
            raise refusal(func, "its result depends on values")
        device = tensors[0].device if tensors else torch.device("cpu")
        device = torch.device(kwargs.get("device") or device)
        leaves, structure = tree_flatten((args, kwargs))
        shapes = [shape_of(leaf) for leaf in leaves]
        of_shape = {id(s): t for s, t in zip(shapes, leaves, strict=True) if isinstance(t, Tensor)}
        args, kwargs = tree_unflatten(shapes, structure)
        if "device" in kwargs or not tensors:
            kwargs = {**kwargs, "device": torch.device("meta"), "pin_memory": None}
        try:
            result = func(*args, **kwargs)
        except NotImplementedError as error:
            raise refusal(func, "it has no shape rule") from error

        def tensor_of(shape: Any) -> Any:
            if not isinstance(shape, Tensor):
                return shape
            return of_shape.get(id(shape), None) or self._unknown.like(shape, device)

        return tree_map(tensor_of, result)

    def _with_positions(self, func: OpOverload, arg: Any) -> Any:
        """Replace the masks in an argument by positions, from which shapes follow."""
        if not isinstance(arg, list | tuple):
            return arg
        positions: list[Any] = []
        for part in arg:
            is_mask = isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8)
            if is_mask and part in self._unknown:
                raise refusal(func, "its result depends on values")
            positions += part.nonzero().unbind(1) if is_mask else [part]
        return positions

    def _count(
        self, func: OpOverload, args: Any, arguments: list[Tensor], results: list[Tensor]
    ) -> None:
        old = {storage._cdata for tensor in arguments for storage in storages_of(tensor)}
        storages = [storage for result in results for storage in storages_of(result)]
        tentative = is_in_place_in_backward(func, args)
        for storage in storages:
            if storage._cdata not in old:
                self._allocations.allocate(storage, tentative=tentative)
        if not func.is_view:
            self._allocations.allocate_and_free(workspace_bytes(func, args, results))
