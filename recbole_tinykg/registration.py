"""Declares the operators to PyTorch and loads the native kernels.

Every operator gets a schema, the plain-torch implementation of ``reference`` on every device,
and a shape rule for tracing (fake tensors). The native library, when it is there, registers faster
kernels for the CPU on top: one call runs everywhere and the dispatcher picks the kernel. Importing
this module does all of it; ``ops`` holds the functions that people call.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from recbole_tinykg import reference
from recbole_tinykg.errors import NativeLibraryError

NAMESPACE = "recbole_tinykg"
NATIVE_CPU = Path(__file__).with_name("_native_cpu.so")
REMEDY = "build it with `pip install --no-build-isolation --no-deps -e .` and a C++20 compiler"

_SCHEMAS = (
    "quantize(Tensor x, Tensor stream, *, int bits, bool stochastic=True, SymInt first_row=0)"
    " -> (Tensor codes, Tensor minimum, Tensor step)",
    "dequantize(Tensor codes, Tensor minimum, Tensor step, *, SymInt num_columns, int bits,"
    " ScalarType dtype) -> Tensor",
    "dequantize_(Tensor(a!) out, Tensor codes, Tensor minimum, Tensor step, *, int bits) -> ()",
    "dequantize_add_(Tensor(a!) out, Tensor codes, Tensor minimum, Tensor step,"
    " Tensor? index=None, *, int bits) -> ()",
    "sign_mask(Tensor x) -> Tensor",
    "leaky_relu_backward(Tensor grad, Tensor mask, *, float negative_slope) -> Tensor",
    "dropout(Tensor x, Tensor stream, *, float probability, SymInt first_row=0) -> Tensor",
    "leaky_relu_dropout(Tensor x, Tensor stream, Tensor? addend=None, *, float negative_slope,"
    " float probability, SymInt first_row=0) -> (Tensor out, Tensor mask)",
    "leaky_relu_dropout_backward(Tensor grad, Tensor mask, Tensor stream, *, float negative_slope,"
    " float probability, SymInt first_row=0) -> (Tensor grad_x, Tensor grad_addend)",
    "spmm(Tensor crow, Tensor col, Tensor values, Tensor dense, Tensor? rows=None,"
    " Tensor? places=None) -> Tensor",
    "spmm_add_(Tensor(a!) out, Tensor crow, Tensor col, Tensor values, Tensor dense,"
    " Tensor? rows=None, Tensor? places=None) -> ()",
)
_BY_LIBRARY = ("spmm", "spmm_add_")  # these call MKL or cuSPARSE and have no kernel of ours


def native_status() -> tuple[bool, str]:
    """Whether the native CPU kernels are loaded, and their path or the reason why not."""
    return _load_native()


def require_native() -> None:
    """Raise unless the native CPU kernels are loaded.

    Raises:
        NativeLibraryError: The library is missing or does not load; the message names the remedy.
    """
    loaded, detail = _load_native()
    if not loaded:
        raise NativeLibraryError(f"the native CPU kernels are required but {detail}; {REMEDY}")


@functools.cache
def _warn_not_native() -> None:
    """Say, once per process, that the slow reference stands in for the native kernels."""
    detail = _load_native()[1]
    warnings.warn(
        f"native CPU kernels are missing, the slow reference runs: {detail}; {REMEDY}",
        RuntimeWarning,
        stacklevel=3,
    )


def _stand_in(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """The reference of an operator whose native kernel is missing on the CPU."""

    @functools.wraps(implementation)
    def run(first: Tensor, *others: Any, **options: Any) -> Any:
        if first.device.type == "cpu":
            _warn_not_native()
        return implementation(first, *others, **options)

    return run


@functools.cache
def _load_native() -> tuple[bool, str]:
    if not NATIVE_CPU.exists():
        return False, f"{NATIVE_CPU} does not exist"
    try:
        torch.ops.load_library(str(NATIVE_CPU))
    except OSError as error:
        return False, f"{NATIVE_CPU} does not load ({error})"
    return True, str(NATIVE_CPU)


def _quantize_shape(
    x: Tensor, stream: Tensor, *, bits: int, stochastic: bool = True, first_row: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, num_columns = x.shape
    groups = (num_rows, reference.num_groups(num_columns))
    return (
        x.new_empty((num_rows, reference.packed_bytes(num_columns, bits)), dtype=torch.uint8),
        x.new_empty(groups, dtype=reference.compute_dtype(x.dtype)),
        x.new_empty(groups, dtype=reference.step_dtype(x.dtype)),
    )


def _dequantize_shape(
    codes: Tensor, minimum: Tensor, step: Tensor, *, num_columns: int, bits: int, dtype: torch.dtype
) -> Tensor:
    return codes.new_empty((codes.shape[0], num_columns), dtype=dtype)


def _dequantize__shape(
    out: Tensor, codes: Tensor, minimum: Tensor, step: Tensor, *, bits: int
) -> None:
    return None


def _dequantize_add__shape(
    out: Tensor,
    codes: Tensor,
    minimum: Tensor,
    step: Tensor,
    index: Tensor | None = None,
    *,
    bits: int,
) -> None:
    return None


def _sign_mask_shape(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], reference.packed_bytes(x.shape[1], 1)), dtype=torch.uint8)


def _leaky_relu_backward_shape(grad: Tensor, mask: Tensor, *, negative_slope: float) -> Tensor:
    return grad.new_empty(grad.shape)


def _dropout_shape(x: Tensor, stream: Tensor, *, probability: float, first_row: int = 0) -> Tensor:
    return x.new_empty(x.shape)


def _leaky_relu_dropout_shape(
    x: Tensor,
    stream: Tensor,
    addend: Tensor | None = None,
    *,
    negative_slope: float,
    probability: float,
    first_row: int = 0,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), _sign_mask_shape(x)


def _leaky_relu_dropout_backward_shape(
    grad: Tensor,
    mask: Tensor,
    stream: Tensor,
    *,
    negative_slope: float,
    probability: float,
    first_row: int = 0,
) -> tuple[Tensor, Tensor]:
    return grad.new_empty(grad.shape), grad.new_empty(grad.shape)


def _spmm_shape(
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    dense: Tensor,
    rows: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    num_rows = crow.shape[0] - 1 if rows is None else rows.shape[0]
    return dense.new_empty((num_rows, dense.shape[1]))


def _spmm_add__shape(
    out: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    dense: Tensor,
    rows: Tensor | None = None,
    places: Tensor | None = None,
) -> None:
    return None


def _register() -> Library:
    library = Library(NAMESPACE, "DEF")
    loaded = _load_native()[0]
    for schema in _SCHEMAS:
        name = schema.partition("(")[0]
        implementation = getattr(reference, name)
        if not loaded and name not in _BY_LIBRARY:
            implementation = _stand_in(implementation)
        library.define(schema)
        library.impl(name, implementation, "CompositeExplicitAutograd")
        shape_rule = globals()[f"_{name}_shape"]
        torch.library.register_fake(f"{NAMESPACE}::{name}", shape_rule, lib=library)
    return library


def _silence_sparse_csr_warning() -> None:
    """Spend PyTorch's once-per-process "Sparse CSR ... in beta state" on an empty matrix.

    At import, which runs once and under the import lock, whatever threads call operators later.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0], [], [], (0, 0), dtype=torch.float32)


_LIBRARY = _register()  # operators live as long as this object
_silence_sparse_csr_warning()
