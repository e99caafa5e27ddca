"""Declare the operators to PyTorch and load the native kernels.

Every operator gets a schema, the plain PyTorch implementation of the same name in `reference` on
every device, and a shape rule for tracing (fake tensors). Importing this module does all of it;
`ops` holds the functions to call.

The native libraries, where they are installed, register faster kernels for the CPU and for CUDA on
top: one call runs everywhere and the dispatcher picks the kernel. A library is loaded by the first
call on its device, not at import: asking for GPUs starts CUDA, and RecBole chooses the GPU later,
by CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from recbole_tinykg.errors import NativeLibraryError
from recbole_tinykg.ops import reference

NAMESPACE = "recbole_tinykg"

_PACKAGE = Path(__file__).parents[1]
_BUILD = "build it with `pip install --no-build-isolation --no-deps -e .` and"
_NATIVE = {  # by device type: its usual name, the library, how to get it
    "cpu": ("CPU", _PACKAGE / "_native_cpu.so", f"{_BUILD} a C++20 compiler"),
    "cuda": ("CUDA", _PACKAGE / "_native_cuda.so", f"{_BUILD} nvcc on PATH"),
}

_LOADING = threading.RLock()  # loading a library changes a flag of the whole process for a moment


def native_status(device_type: str = "cpu") -> tuple[bool, str]:
    """Return whether the native kernels of a device load, and their path or why they do not."""
    with _LOADING:
        return _load_native_once(device_type)


def require_native(device_type: str | None = None) -> None:
    """Raise unless the native kernels load.

    Args:
        device_type: "cpu" or "cuda"; None is the CPU and, where PyTorch sees a GPU, CUDA.

    Raises:
        NativeLibraryError: A library is missing or does not load, or there is none for the device;
            the message names the remedy.
    """
    available = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for required in available if device_type is None else [device_type]:
        loaded, detail = native_status(required)
        if not loaded:
            kernels, _, remedy = _NATIVE.get(required, (required, None, "choose cpu or cuda"))
            message = f"the native {kernels} kernels are required but {detail}; {remedy}"
            raise NativeLibraryError(message)


@functools.cache
def _warn_not_native(device_type: str) -> None:
    """Warn, once per process, that the slow reference runs instead of the native kernels."""
    kernels, _, remedy = _NATIVE[device_type]
    detail = native_status(device_type)[1]
    warnings.warn(
        f"native {kernels} kernels are missing, the slow reference runs: {detail}; {remedy}",
        RuntimeWarning,
        stacklevel=3,
    )


@functools.cache
def _load_native_once(device_type: str) -> tuple[bool, str]:
    if device_type not in _NATIVE:
        return False, f"there are none for {device_type}"
    path = _NATIVE[device_type][1]
    if device_type == "cuda" and not torch.cuda.is_available():
        return False, "PyTorch sees no CUDA device"
    if not path.exists():
        return False, f"{path} does not exist"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return False, f"{path} does not load ({error.__cause__ or error})"
    return True, str(path)


def _stand_in(name: str, implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the reference of an operator, which runs where no native kernel is registered.

    The first call on a device loads the library and then asks the dispatcher once more.
    """

    @functools.wraps(implementation)
    def run(first: Tensor, *others: Any, **options: Any) -> Any:
        device_type = first.device.type
        if device_type in _NATIVE:
            operator = getattr(getattr(torch.ops, NAMESPACE), name).default
            key = getattr(torch._C.DispatchKey, _NATIVE[device_type][0])
            loaded = native_status(device_type)[0]
            if loaded and operator.has_kernel_for_dispatch_key(key):
                return operator(first, *others, **options)
            if not loaded:
                _warn_not_native(device_type)
        return implementation(first, *others, **options)

    return run


_SHAPE_RULES: dict[str, Callable[..., Any]] = {}  # by schema


def _operator(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an operator; what is decorated is its shape rule, with the schema's arguments."""

    def declare(shape_rule: Callable[..., Any]) -> Callable[..., Any]:
        _SHAPE_RULES[schema] = shape_rule
        return shape_rule

    return declare


@_operator(
    "quantize(Tensor x, Tensor stream, *, int bits, bool stochastic=True, SymInt first_row=0)"
    " -> (Tensor codes, Tensor minimum, Tensor step)"
)
def _quantized(x: Tensor, *_: Tensor, bits: int, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_columns = x.shape
    groups = (num_rows, reference.num_groups(num_columns))
    return (
        x.new_empty((num_rows, reference.packed_bytes(num_columns, bits)), dtype=torch.uint8),
        x.new_empty(groups, dtype=reference.compute_dtype(x.dtype)),
        x.new_empty(groups, dtype=reference.step_dtype(x.dtype)),
    )


@_operator(
    "dequantize(Tensor codes, Tensor minimum, Tensor step, *, SymInt num_columns, int bits,"
    " ScalarType dtype) -> Tensor"
)
def _dequantized(
    codes: Tensor, *_: Tensor, num_columns: int, dtype: torch.dtype, **__: Any
) -> Tensor:
    return codes.new_empty((codes.shape[0], num_columns), dtype=dtype)


@_operator(
    "dequantize_(Tensor(a!) out, Tensor codes, Tensor minimum, Tensor step, *, int bits) -> ()"
)
@_operator(
    "dequantize_add_(Tensor(a!) out, Tensor codes, Tensor minimum, Tensor step,"
    " Tensor? index=None, *, int bits) -> ()"
)
@_operator(
    "spmm_add_(Tensor(a!) out, Tensor crow, Tensor col, Tensor values, Tensor dense,"
    " Tensor? rows=None, Tensor? places=None) -> ()"
)
def _nothing(*_: Tensor | None, **__: Any) -> None:
    return None


@_operator("sign_mask(Tensor x) -> Tensor")
@_operator(
    "leaky_relu_dropout_(Tensor(a!) x, Tensor stream, Tensor? addend=None, *,"
    " float negative_slope, float probability, SymInt first_row=0) -> Tensor mask"
)
def _mask_of_first(x: Tensor, *_: Tensor | None, **__: Any) -> Tensor:
    return x.new_empty((x.shape[0], reference.packed_bytes(x.shape[1], 1)), dtype=torch.uint8)


@_operator("leaky_relu_backward(Tensor grad, Tensor mask, *, float negative_slope) -> Tensor")
@_operator("dropout(Tensor x, Tensor stream, *, float probability, SymInt first_row=0) -> Tensor")
@_operator("normalize_backward(Tensor grad, Tensor x, Tensor shrink, *, float eps) -> Tensor")
def _like_first(first: Tensor, *_: Tensor, **__: Any) -> Tensor:
    return first.new_empty(first.shape)


@_operator(
    "leaky_relu_dropout_backward(Tensor grad, Tensor mask, Tensor stream, *, float negative_slope,"
    " float probability, SymInt first_row=0) -> (Tensor grad_x, Tensor grad_addend)"
)
def _two_like_first(grad: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape), grad.new_empty(grad.shape)


@_operator(
    "spmm(Tensor crow, Tensor col, Tensor values, Tensor dense, Tensor? rows=None,"
    " Tensor? places=None) -> Tensor"
)
def _product(
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    dense: Tensor,
    rows: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    num_rows = crow.shape[0] - 1 if rows is None else rows.shape[0]
    return dense.new_empty((num_rows, dense.shape[1]))


@_operator(
    "spmm_backward_(Tensor(a!) out, Tensor crow, Tensor col, Tensor values, Tensor dense,"
    " Tensor grad) -> Tensor grad_values"
)
def _like_values(out: Tensor, crow: Tensor, col: Tensor, values: Tensor, *_: Tensor) -> Tensor:
    return values.new_empty(values.shape)


def _in_place(name: str) -> Callable[..., None | Tensor]:
    """Tell autograd that an operator writes its first argument, as PyTorch's own in-place do."""

    def write(keys: Any, target: Tensor, *others: Any, **options: Any) -> Any:
        operator = getattr(getattr(torch.ops, NAMESPACE), name).default
        torch.autograd.graph.increment_version(target)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            below = keys & torch._C._after_ADInplaceOrView_keyset
            return operator.redispatch(below, target, *others, **options)

    return write


def _register() -> Library:
    library = Library(NAMESPACE, "DEF")
    for schema, shape_rule in _SHAPE_RULES.items():
        name = schema.partition("(")[0]
        implementation = _stand_in(name, getattr(reference, name))
        library.define(schema)
        library.impl(name, implementation, "CompositeExplicitAutograd")
        if "(a!)" in schema:
            library.impl(name, _in_place(name), "ADInplaceOrView", with_keyset=True)
        torch.library.register_fake(f"{NAMESPACE}::{name}", shape_rule, lib=library)
    return library


_LIBRARY = _register()  # operators live as long as this object

# Spend PyTorch's once-per-process "Sparse CSR ... in beta state" on an empty matrix: at import,
# which runs once and under the import lock, whatever threads call operators later.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0], [], [], (0, 0), dtype=torch.float32)
