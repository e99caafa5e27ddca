"""The operators of the package, as functions that check their arguments.

Kernels trust their arguments, so every argument is checked here, once and cheaply: a training
step makes some tens of these calls. Only this package writes `torch.ops.recbole_tinykg`. A
function whose name ends with an underscore changes its first argument, as in PyTorch.

Files: `activation`, `dequantize`, `normalize`, `quantize`, `spmm`, `spmm_backward`; `checks` of
arguments; `registration`, which declares schemas and loads native libraries; `reference/`.

An operator has one stem everywhere, its own or its family's: `dequantize.py` here and in
`reference/`, `csrc/cpu/dequantize.cpp`, `csrc/cuda/dequantize.cu`, `tests/ops/test_dequantize.py`.
The attribute `ops.dequantize` is the function, which hides the module of that name; import from the
module with `from recbole_tinykg.ops.dequantize import ...`.

Random operators take `stream`, an int64 tensor [seed, position] on the device of the data, and
have no other state: the same stream draws the same noise, whatever ran before. `first_row` says
which row of a larger matrix the first row of the argument is, so that a matrix in row blocks draws
the same noise as the whole matrix.
"""

from recbole_tinykg.ops.registration import native_status, require_native  # isort: skip - declares
from recbole_tinykg.ops.activation import (
    dropout,
    leaky_relu_backward,
    leaky_relu_dropout_,
    leaky_relu_dropout_backward,
    sign_mask,
)
from recbole_tinykg.ops.checks import BITS
from recbole_tinykg.ops.dequantize import dequantize, dequantize_, dequantize_add_
from recbole_tinykg.ops.normalize import normalize_backward
from recbole_tinykg.ops.quantize import quantize
from recbole_tinykg.ops.reference.noise import draw as random_bits
from recbole_tinykg.ops.spmm import spmm, spmm_add_
from recbole_tinykg.ops.spmm_backward import spmm_backward_

__all__ = [
    "BITS",
    "dequantize",
    "dequantize_",
    "dequantize_add_",
    "dropout",
    "leaky_relu_backward",
    "leaky_relu_dropout_",
    "leaky_relu_dropout_backward",
    "native_status",
    "normalize_backward",
    "quantize",
    "random_bits",
    "require_native",
    "sign_mask",
    "spmm",
    "spmm_add_",
    "spmm_backward_",
]
