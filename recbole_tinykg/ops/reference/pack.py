"""Codes of 1, 2, 4 or 8 bits, packed from the low bits of each byte upwards."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_bytes(num_columns: int, bits: int) -> int:
    """Return the bytes of a packed row: it is padded to whole bytes and no further."""
    return -(-num_columns * bits // 8)


def pack(code: Tensor, bits: int) -> Tensor:  # (N, D) uint8 -> (N, ceil(D * bits / 8)) uint8
    """Pack codes from the low bits of every byte upwards; a row ends with a whole byte."""
    per_byte = 8 // bits
    code = torch.nn.functional.pad(code, (0, -code.shape[1] % per_byte))
    code = code.reshape(code.shape[0], code.shape[1] // per_byte, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=code.device)
    return (code << shifts).sum(dim=2, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, num_columns: int) -> Tensor:  # -> (N, D) uint8
    """Return the codes that `pack` was given."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    code = (packed.unsqueeze(2) >> shifts) & (2**bits - 1)
    return code.flatten(1)[:, :num_columns]
