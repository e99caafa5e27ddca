"""The quantizer in plain PyTorch: the definition, the fallback and the oracle of the tests.

A group is a slice of at most 256 columns of one row. With ``levels = 2**bits - 1`` it is stored as

    minimum    its smallest value, in the arithmetic type (float32; float64 for float64 input),
    step       (maximum - minimum) / levels, rounded up to bfloat16 (float64 stays as it is),
    codes      ``bits`` bits per element, code = round(v) with v = (x - minimum) / step,

and comes back as ``minimum + code * step``. Stochastic rounding goes up if and only if
``fraction(v) > (u + 0.5) / 2**16`` for 16 random bits u, so that the mean of what comes back is x.
The metadata is rounded first and then used, as stored, to quantize: otherwise the rounding of the
step would be a bias that no averaging removes. docs/quantizer.md has the proofs.

Special groups: a constant one has step 0 and is exact; one whose range passes a quarter of the
largest float is computed at a quarter of its size and says so in the sign bit of its step; one with
a NaN or an Inf is stored as NaN and comes back as NaN.

The random bits are Philox 4x32-7 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011), a function of (seed, position, element) without state. Native kernels agree with this file
bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_COLUMNS = 256
"""Columns per group: a multiple of the 8 elements that share one generator call."""

ROUNDS = 7
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that a tensor of ``dtype`` is scaled in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def step_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that the steps of a tensor of ``dtype`` are stored in."""
    return torch.float64 if dtype == torch.float64 else torch.bfloat16


def num_groups(num_columns: int) -> int:
    """Groups in a row of ``num_columns``; the last one may be shorter."""
    return -(-num_columns // GROUP_COLUMNS)


def packed_bytes(num_columns: int, bits: int) -> int:
    """Bytes of a packed row: it is padded to whole bytes and no further."""
    return -(-num_columns * bits // 8)


def quantize(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    *,
    bits: int,
    stochastic: bool = True,
    first_row: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # codes (N, ceil(D * bits / 8)), minimum (N, G), step (N, G)
    """Quantize each group of ``x``; see ``ops.quantize`` for the arguments."""
    num_columns = x.shape[1]
    work = x.to(compute_dtype(x.dtype))
    minimum, step = _metadata(work, bits)
    stored = step.to(step_dtype(x.dtype))
    scale = _per_column(_scale(step), num_columns)
    inverse = torch.where(step == 0, 0.0, torch.ones_like(step) / step.abs())
    low = _per_column(minimum, num_columns) * scale
    v = (work * scale - low) * _per_column(inverse, num_columns)
    if stochastic:
        threshold = (_noise(stream, first_row, x.shape).to(v.dtype) + 0.5) * 2.0**-16
        code = v.floor() + (v - v.floor() > threshold)
    else:
        code = (v + 0.5).floor()
    code = torch.where(v.isnan(), 0.0, code.clamp(0, 2**bits - 1))
    return _pack(code.to(torch.uint8), bits), minimum, stored


def dequantize(
    codes: Tensor,  # (N, ceil(D * bits / 8)) uint8
    minimum: Tensor,  # (N, G)
    step: Tensor,  # (N, G)
    *,
    num_columns: int,
    bits: int,
    dtype: torch.dtype,
) -> Tensor:  # (N, D)
    """Give back ``minimum + code * step``, clamped to the finite range of ``dtype``."""
    step = step.to(minimum.dtype)
    scale = _scale(step)
    low = _per_column(minimum * scale, num_columns)
    code = _unpack(codes, bits, num_columns).to(minimum.dtype)
    value = low + code * _per_column(step.abs(), num_columns)
    value = value * _per_column(torch.ones_like(scale) / scale, num_columns)
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)


def sign_mask(x: Tensor) -> Tensor:  # (N, D) -> (N, ceil(D / 8)) uint8
    """Bit ``j % 8`` of byte ``j // 8`` is ``x[:, j] > 0``."""
    return _pack((x > 0).to(torch.uint8), 1)


def leaky_relu_backward(
    grad: Tensor,  # (N, D)
    mask: Tensor,  # (N, ceil(D / 8)) uint8
    *,
    negative_slope: float,
) -> Tensor:  # (N, D)
    """Multiply ``grad`` by 1 where the bit is set and by ``negative_slope`` elsewhere."""
    work = grad.to(compute_dtype(grad.dtype))
    positive = _unpack(mask, 1, grad.shape[1]) > 0
    return torch.where(positive, work, work * negative_slope).to(grad.dtype)


def dropout(
    x: Tensor,  # (N, D)
    stream: Tensor,  # (2,) int64: seed, position
    *,
    probability: float,
    first_row: int = 0,
) -> Tensor:  # (N, D)
    """Zero elements with ``probability``, a multiple of 2**-16; scale the others."""
    dropped = round(probability * 2**16)
    keep_scale = 2**16 / (2**16 - dropped) if dropped < 2**16 else 0.0
    work = x.to(compute_dtype(x.dtype))
    kept = _noise(stream, first_row, x.shape) >= dropped
    return (work * (kept.to(work.dtype) * keep_scale)).to(x.dtype)


def spmm(crow: Tensor, col: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """``A @ dense`` for A in CSR, by the library (MKL, cuSPARSE or PyTorch's own)."""
    out = dense.new_zeros(crow.shape[0] - 1, dense.shape[1])
    spmm_add_(out, crow, col, values, dense)
    return out


def spmm_add_(out: Tensor, crow: Tensor, col: Tensor, values: Tensor, dense: Tensor) -> None:
    """``out += A @ dense`` for A in CSR, by the library; on a CPU 16-bit types go by float32."""
    narrow = dense.device.type == "cpu" and dense.element_size() == 2
    dtype = torch.float32 if narrow else dense.dtype
    shape = (crow.shape[0] - 1, dense.shape[0])
    matrix = torch.sparse_csr_tensor(crow, col, values.to(dtype), shape, check_invariants=False)
    total = out.to(dtype)
    torch.addmm(total, matrix, dense.to(dtype), out=total)  # autocast leaves out= calls alone
    if narrow:
        out.copy_(total)


def _metadata(work: Tensor, bits: int) -> tuple[Tensor, Tensor]:  # (N, D) -> (N, G), (N, G)
    """Minimum and signed step of every group, both in the arithmetic type."""
    groups = work.split(GROUP_COLUMNS, dim=1) if work.shape[1] else ()
    low = work.new_empty(work.shape[0], len(groups))
    high = torch.empty_like(low)
    for index, group in enumerate(groups):
        low[:, index] = group.amin(dim=1) + 0.0  # -0 becomes +0: one pattern per value
        high[:, index] = group.amax(dim=1)
    largest = torch.finfo(work.dtype).max
    scale = torch.where(high - low > largest / 4, 0.25, 1.0).to(work.dtype)
    span = high * scale - low * scale
    # Division by a tensor: by a Python number CUDA multiplies by a rounded reciprocal.
    step = _round_up(span / torch.full_like(span, 2**bits - 1))
    step = torch.where(span > 0, step.clamp(min=torch.finfo(work.dtype).tiny), 0.0)
    step = torch.where(scale < 1, -step, step)
    broken = ~(low.isfinite() & high.isfinite())
    return low.masked_fill(broken, torch.nan), step.masked_fill(broken, torch.nan)


def _round_up(step: Tensor) -> Tensor:
    """The next bfloat16 at or above a non-negative float32; float64 is kept as it is."""
    if step.dtype == torch.float64:
        return step
    bits = step.view(torch.int32) + 0xFFFF
    return (bits & ~0xFFFF).view(torch.float32)


def _scale(step: Tensor) -> Tensor:
    return torch.where(step < 0, 0.25, 1.0).to(step.dtype)


def _per_column(group_values: Tensor, num_columns: int) -> Tensor:  # (N, G) -> (N, D)
    return group_values.repeat_interleave(GROUP_COLUMNS, dim=1)[:, :num_columns]


def _pack(code: Tensor, bits: int) -> Tensor:  # (N, D) uint8 -> (N, ceil(D * bits / 8)) uint8
    per_byte = 8 // bits
    code = torch.nn.functional.pad(code, (0, -code.shape[1] % per_byte))
    code = code.reshape(code.shape[0], code.shape[1] // per_byte, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=code.device)
    return (code << shifts).sum(dim=2, dtype=torch.uint8)


def _unpack(packed: Tensor, bits: int, num_columns: int) -> Tensor:  # -> (N, D) uint8
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    code = (packed.unsqueeze(2) >> shifts) & (2**bits - 1)
    return code.flatten(1)[:, :num_columns]


def _noise(stream: Tensor, first_row: int, shape: torch.Size) -> Tensor:  # shape, int64
    """16 random bits per element; eight neighbours in a row share one generator call."""
    num_rows, num_columns = shape
    blocks = -(-num_columns // 8)
    block = torch.arange(num_rows * blocks, device=stream.device) + first_row * blocks
    seed, position = stream
    counter = (block & _WORD, block >> 32 & _WORD, position & _WORD, position >> 32 & _WORD)
    words = torch.stack(philox4x32(counter, (seed & _WORD, seed >> 32 & _WORD)), dim=1)
    halves = torch.stack((words & 0xFFFF, words >> 16), dim=2)  # (N * blocks, 4, 2)
    return halves.view(num_rows, blocks * 8)[:, :num_columns]


def philox4x32(
    counter: tuple[Tensor, ...],  # four words, int64 holding 32 bits
    key: tuple[Tensor, ...],  # two words, int64 holding 32 bits
    rounds: int = ROUNDS,
) -> tuple[Tensor, ...]:  # four words
    """The Philox 4x32 bijection of ``counter`` under ``key``, in 64-bit integer arithmetic."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    key0, key1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _WORD, (key1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 64-bit product, by 16-bit halves, as int64 has a sign."""
    product = (word & 0xFFFF) * factor  # below 2**48
    high = ((word >> 16) * factor + (product >> 16)) >> 16
    return high, (word * factor) & _WORD
