"""Memory that kernels take and give back inside one call, which a dispatch mode cannot see.

Each rule states what PyTorch's CPU kernels, or ours, allocated besides their results when single
operators ran under the profiler; `tests/memory/test_simulation.py` repeats that for each rule:

* an elementwise operator copies arguments of another type than the one it computes in;
* so does a sum or running sum into another type;
* a boolean mask as an index becomes positions, 8 bytes each per dimension;
* sorting takes a list of positions, `unique` two;
* kernels that read rows copy an argument with another layout;
* `mm` with a sparse first factor, as autograd calls it, allocates its result twice.

The same rules are used on CUDA. cuBLAS keeps its workspaces, which the meter does not count.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

_POSITION_BYTES = 8
_CONDITIONAL = ("where", "masked_fill", "masked_fill_")
_CONTIGUOUS = ("_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data")


def workspace_bytes(func: OpOverload, args: Sequence[Any], results: Sequence[Tensor]) -> int:
    """Return the bytes that a call of `func` allocates besides its results.

    Args:
        func: The operator.
        args: Its positional arguments.
        results: The tensors that it returned.
    """
    namespace, _, name = func._schema.name.partition("::")
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if namespace == "recbole_tinykg":
        return sum(map(_copy_bytes, tensors)) if name.startswith("spmm") else 0
    if any(tensor.layout is not torch.strided for tensor in tensors):
        return results[0].nbytes if name == "mm" else 0
    if torch.Tag.pointwise in func.tags:
        return _promotion_bytes(name, tensors, results)
    rule = _RULES.get(name)
    return rule(args, results) if rule is not None and tensors else 0


def _promotion_bytes(name: str, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> int:
    tensors = [t for t in tensors if t.dim() and not (name in _CONDITIONAL and _is_mask(t))]
    if not tensors or not results:
        return 0
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if not _is_mask(results[0]):  # a comparison computes in the type of what it compares
        dtype = torch.promote_types(dtype, results[0].dtype)
    return sum(t.numel() * dtype.itemsize for t in tensors if t.dtype != dtype)


def _reduction(args: Sequence[Any], results: Sequence[Tensor]) -> int:
    if args[0].dtype == results[0].dtype:
        return 0
    return args[0].numel() * results[0].element_size()


def _masks(args: Sequence[Any], results: Sequence[Tensor]) -> int:
    masks = [i for i in args[1] if isinstance(i, Tensor) and _is_mask(i)]
    return sum(_POSITION_BYTES * mask.dim() * int(mask.count_nonzero()) for mask in masks)


def _positions(count: int, args: Sequence[Any], results: Sequence[Tensor]) -> int:
    return count * _POSITION_BYTES * args[0].numel()


def _rows_copied(args: Sequence[Any], results: Sequence[Tensor]) -> int:
    return sum(_copy_bytes(arg) for arg in args if isinstance(arg, Tensor))


def _product(args: Sequence[Any], results: Sequence[Tensor]) -> int:
    """Count copies: BLAS takes matrices stored by rows or by columns, no others."""
    factors = [arg for arg in args if isinstance(arg, Tensor) and arg.dim() >= 2]
    return sum(f.numel() * f.element_size() for f in factors if 1 not in f.stride()[-2:])


def _copy_bytes(tensor: Tensor) -> int:
    return 0 if tensor.is_contiguous() else math.prod(tensor.shape) * tensor.element_size()


def _is_mask(tensor: Tensor) -> bool:
    return tensor.dtype is torch.bool


_RULES: dict[str, Callable[[Sequence[Any], Sequence[Tensor]], int]] = {
    **dict.fromkeys(("sum", "nansum", "prod", "cumsum", "mean"), _reduction),
    **dict.fromkeys(("index", "index_put_", "_index_put_impl_"), _masks),
    "sort": functools.partial(_positions, 1),
    "_unique2": functools.partial(_positions, 2),
    "repeat_interleave": functools.partial(_positions, 1),
    **dict.fromkeys(_CONTIGUOUS, _rows_copied),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _product),
}
