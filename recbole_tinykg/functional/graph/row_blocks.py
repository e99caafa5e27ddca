"""Blocks of rows, in which dense work on all nodes goes on."""

from __future__ import annotations

from dataclasses import dataclass

ROW_BLOCK = 4096
"""Rows that dense work handles at a time: 4096 x 64 floats stay in a core's cache."""


@dataclass(frozen=True)
class RowBlock:
    """Rows `start:stop` of one part, and the range of message rows that lie among them.

    `entries` are the ranges of the message rows' entries, one per column part; none in a block of
    a batch's rows, which lie anywhere.
    """

    part: int
    start: int
    stop: int
    first_message: int
    last_message: int
    entries: tuple[slice, ...] = ()


def row_bounds(sizes: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(part, start, stop) of the row blocks of two stacked parts; no block crosses the border."""
    border, end = sizes[0], sum(sizes)
    return [
        (part, start, min(start + ROW_BLOCK, last))
        for part, (first, last) in enumerate(((0, border), (border, end)))
        for start in range(first, last, ROW_BLOCK)
    ]
