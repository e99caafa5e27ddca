"""The random bits: Philox 4x32-7, a function of (seed, position, element) without state.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 7
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def draw(stream: Tensor, first_row: int, shape: torch.Size) -> Tensor:  # shape, int64
    """Draw 16 random bits per element; eight neighbours in a row share one generator call."""
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
    """Apply the Philox 4x32 bijection under `key` to `counter`, in 64-bit integer arithmetic."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    key0, key1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _WEYL[0]) & _WORD, (key1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the high and low 32 bits of a product, by 16-bit halves because int64 is signed."""
    product = (word & 0xFFFF) * factor  # below 2**48
    high = ((word >> 16) * factor + (product >> 16)) >> 16
    return high, (word * factor) & _WORD
