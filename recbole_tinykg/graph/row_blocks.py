"""Blocks of rows: dense work on all nodes of an `adjacency` is done block by block (KGAT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

ROW_BLOCK = 4096
"""Rows at a time on a CPU: 4096 x 64 floats stay in a core's cache."""

DEVICE_ROW_BLOCK = 8 * ROW_BLOCK
"""Rows at a time on a GPU, which a block has to keep busy: 32768 x 64 floats are 8 MB.

At Amazon-Book's size 16 times `ROW_BLOCK` would raise the peak of a step by a third.
"""


@dataclass(frozen=True)
class RowBlock:
    """Rows `start:stop` of one part, and the range of message rows among them.

    `entries` are the ranges of the message rows' entries, one per column part. A block of a batch's
    rows, which lie anywhere, has none.
    """

    part: int
    start: int
    stop: int
    first_message: int
    last_message: int
    entries: tuple[slice, ...] = ()


def row_bounds(sizes: tuple[int, int], device: torch.device) -> list[tuple[int, int, int]]:
    """Return (part, start, stop) of the row blocks of two parts; no block crosses their border."""
    border, end = sizes[0], sum(sizes)
    step = ROW_BLOCK if device.type == "cpu" else DEVICE_ROW_BLOCK
    return [
        (part, start, min(start + step, last))
        for part, (first, last) in enumerate(((0, border), (border, end)))
        for start in range(first, last, step)
    ]
