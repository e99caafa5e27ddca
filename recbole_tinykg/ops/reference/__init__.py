"""Every operator in plain PyTorch: the definition, the fallback and the oracle of the tests.

Short enough to be read as definitions; they run on any device without kernels of ours. The native
kernels of `quantize`, `dequantize` and `activation` agree with them bit for bit; those of
`normalize`, `spmm` and `spmm_backward` have sums and agree to rounding. They share `pack` (codes in
bytes), `noise` (the random bits), `checks` and `library` (the matrix for MKL and cuSPARSE).
"""

from recbole_tinykg.ops.reference.activation import (
    dropout,
    leaky_relu_backward,
    leaky_relu_dropout_,
    leaky_relu_dropout_backward,
    sign_mask,
)
from recbole_tinykg.ops.reference.dequantize import dequantize, dequantize_, dequantize_add_
from recbole_tinykg.ops.reference.normalize import normalize_backward
from recbole_tinykg.ops.reference.pack import packed_bytes
from recbole_tinykg.ops.reference.quantize import (
    GROUP_COLUMNS,
    compute_dtype,
    num_groups,
    quantize,
    step_dtype,
)
from recbole_tinykg.ops.reference.spmm import spmm, spmm_add_
from recbole_tinykg.ops.reference.spmm_backward import spmm_backward_

__all__ = [
    "GROUP_COLUMNS",
    "compute_dtype",
    "dequantize",
    "dequantize_",
    "dequantize_add_",
    "dropout",
    "leaky_relu_backward",
    "leaky_relu_dropout_",
    "leaky_relu_dropout_backward",
    "normalize_backward",
    "num_groups",
    "packed_bytes",
    "quantize",
    "sign_mask",
    "spmm",
    "spmm_add_",
    "spmm_backward_",
    "step_dtype",
]
