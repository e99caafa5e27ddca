"""CUDA graphs on a CPU: the operators that a function calls, recorded once and then repeated.

A replay calls the same operators on the same memory, without the Python around them, as a CUDA
graph does. What Python computes, a counter or a shape, is what it was at the capture; what lies in
tensors is read anew. Reading a number during a capture is refused, as CUDA refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_READS = {"_local_scalar_dense", "equal", "nonzero", "_unique2", "unique_consecutive", "bincount"}


class RecordedGraphs:
    """Stands for `CudaGraphs`.

    Args:
        state: Returns the tensors that a capture must leave as they are: it computes, since shapes
            come from nothing else here, and they are put back.
    """

    device = torch.device("cpu")

    def __init__(self, state: Callable[[], Iterable[Tensor]]) -> None:
        self._state = state
        self.num_warm_up = self.num_captures = self.num_replays = 0

    def warm_up(self) -> Any:
        self.num_warm_up += 1
        return nullcontext()

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        self.num_captures += 1
        before = [(tensor, tensor.detach().clone()) for tensor in self._state()]
        with _Recorder() as recorder:
            function()
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)

        def replay() -> None:
            self.num_replays += 1
            recorder.repeat()

        return replay


class _Recorder(TorchDispatchMode):
    """Notes every operator with its arguments and results, which stay alive."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in _READS or (name == "repeat_interleave" and "output_size" not in (kwargs or {})):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        given = _aliases(
            (args, kwargs or {})
        )  # as they are now: `squeeze_` changes a tensor's shape
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, given, _aliases(result)))
        return result

    @torch.no_grad()
    def repeat(self) -> None:
        for func, arguments, result in self._calls:
            args, kwargs = _aliases(arguments)
            again = func(*args, **kwargs)
            given = {_storage(leaf) for leaf in tree_leaves(arguments) if _is_tensor(leaf)}
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if _is_tensor(old) and _storage(old) not in given:
                    old.detach().copy_(new)


def _aliases(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach() if _is_tensor(leaf) else leaf, value)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
