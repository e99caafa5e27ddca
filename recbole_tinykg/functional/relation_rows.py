r"""Rows sorted by relation, and their products with the matrix of each relation.

A row i of relation :math:`r_i` is multiplied as :math:`y_i = x_i W_{r_i}`, and the gradient of a
matrix is the sum of :math:`x_i^\top g_i` over its rows. No row gets a matrix of its own. There are
two ways to divide the rows:

* `Segments`: the rows of a relation are a range, and each range is one product. How long the ranges
  are has to be read from the device, and there are as many launches as relations.
* `Tiles`: the rows of a relation fill tiles of `TILE_ROWS` rows, the last one up to the end with
  zeros, and all tiles are one batch of products. N rows of R relations fill at most
  :math:`N / T + R` tiles, so shapes follow from N alone and nothing is read back: the way of a GPU.
  A relation's tiles follow each other, so the sums over them are a sparse product whose order is
  fixed.

This is arithmetic only; nothing is saved, and there is no noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.graph.csr import row_pointers

TILE_ROWS = 64
"""Rows of a tile: smaller ones repeat a matrix more often, larger ones are emptier."""


def relation_rows(
    relation: Tensor,  # (N,) sorted
    weight: Tensor,  # (R, ...): one matrix per relation
    num_rows: int,  # a multiple of N: each entry of `relation` stands for as many rows
    *,
    static_shapes: bool = False,
) -> Segments | Tiles:
    """Divide rows among relations, as ranges or with shapes that follow from those given."""
    each = num_rows // max(1, len(relation))
    if static_shapes:
        return Tiles.of(relation.repeat_interleave(each), len(weight))
    return Segments(tuple(torch.bincount(relation, minlength=len(weight)).mul_(each).tolist()))


class Segments(NamedTuple):
    """How many rows each relation has."""

    counts: tuple[int, ...]

    def products(self, x: Tensor, weight: Tensor) -> Tensor:  # (N, D), (R, D, D') -> (N, D')
        """Return the product of each row and the matrix of its relation."""
        out = x.new_empty(len(x), weight.shape[2])
        for relation, rows in self._ranges():
            torch.mm(x[rows], weight[relation], out=out[rows])
        return out

    def add_products_(self, out: Tensor, x: Tensor, weight: Tensor) -> None:
        """Add the products (N, D') to `out`."""
        for relation, rows in self._ranges():
            out[rows].addmm_(x[rows], weight[relation])

    def add_outer_products_(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        """Add to each matrix of `out` (R, D, D') what its rows of x (N, D) and y (N, D') give."""
        for relation, rows in self._ranges():
            out[relation].addmm_(x[rows].t(), y[rows])

    def _ranges(self) -> Iterator[tuple[int, slice]]:
        """Yield each relation that occurs, and its range of rows."""
        start = 0
        for relation, count in enumerate(self.counts):
            if count:
                yield relation, slice(start, start + count)
            start += count


class Tiles(NamedTuple):
    """Where each row lies among the tiles, and which tiles are a relation's."""

    place: Tensor  # (N,) int64 row of the tiles, ascending
    relation: Tensor  # (num_tiles,) int64, ascending; tiles that are left have the last one
    start: Tensor  # (R + 1,) int32 first tile of each relation, and the number of tiles

    @classmethod
    def of(cls, relation: Tensor, num_relations: int) -> Tiles:
        """Divide rows whose relations (N,) are sorted."""
        relation = relation.long()
        num_tiles = len(relation) // TILE_ROWS + min(num_relations, len(relation))
        numbers = torch.arange(max(num_relations + 1, num_tiles), device=relation.device)
        first_row = torch.searchsorted(relation, numbers[: num_relations + 1])
        tiles = torch.div(first_row.diff() + (TILE_ROWS - 1), TILE_ROWS, rounding_mode="floor")
        start = row_pointers(tiles, torch.int64)
        of_tile = torch.searchsorted(start[1:], numbers[:num_tiles], right=True)
        shift = (start * TILE_ROWS - first_row).index_select(0, relation)
        place = shift.add_(torch.arange(len(relation), device=relation.device))
        start[-1:].fill_(num_tiles)
        return cls(place, of_tile.clamp_(max=num_relations - 1), start.int())

    def products(self, x: Tensor, weight: Tensor) -> Tensor:  # (N, D), (R, D, D') -> (N, D')
        """Return the product of each row and the matrix of its relation."""
        products = torch.bmm(self._fill(x), weight.index_select(0, self.relation))
        return products.flatten(0, 1).index_select(0, self.place)

    def add_products_(self, out: Tensor, x: Tensor, weight: Tensor) -> None:
        """Add the products (N, D') to `out`."""
        out.add_(self.products(x, weight))

    def add_outer_products_(self, out: Tensor, x: Tensor, y: Tensor) -> None:
        """Add to each matrix of `out` (R, D, D') what its rows of x (N, D) and y (N, D') give."""
        of_tiles = torch.bmm(self._fill(x).transpose(1, 2), self._fill(y)).flatten(1)
        tiles = torch.arange(len(of_tiles), dtype=torch.int32, device=out.device)
        ones = of_tiles.new_ones(len(tiles))
        ops.spmm_add_(out.view(len(out), -1), self.start, tiles, ones, of_tiles)

    def _fill(self, x: Tensor) -> Tensor:  # (N, D) -> (num_tiles, TILE_ROWS, D)
        """Return the tiles, with rows of zeros where a relation has no more."""
        tiles = x.new_zeros(len(self.relation) * TILE_ROWS, x.shape[1])
        return tiles.index_copy_(0, self.place, x).view(-1, TILE_ROWS, x.shape[1])
