r"""Sums over the edges of a knowledge graph, relation by relation, without a row per edge.

A relational layer (KGIN, equation 9) computes, for a row h with edges (h, r, t),

.. math:: s_h = \sum_{(r, t)} a_{hrt}\, w_r \odot x_t
              = \sum_r w_r \odot \sum_{t} a_{hrt}\, x_t

so that the relation multiplies the sum of a *pair* (h, r), not each edge: in ml-100k 22,609 pairs
have 91,631 edges. The inner sum is a sparse product over the edges of a pair, the outer one a
sparse product over the pairs of a row. Both are computed in blocks, so that there is never a row
for every pair. Blocks that suit a CPU's cache are many launches on a GPU: where the graph moves to
a device of the other kind, it is divided anew.

Backward is the same sum over the same edges with head and tail exchanged: it sends the gradient of
s to x. Its inner sum for a pair (t, r) is all that the gradient of :math:`w_r` needs:

.. math:: \partial w_r = \sum_t x_t \odot \sum_h a_{hrt}\, g_h

The pattern is fixed; the edges' weights a come with each call (0: the edge is left out).

For some rows alone, `sums_of` computes their pairs only, and how many those are depends on the
rows. With static shapes there is room for the most that so many rows can have, which the degrees of
the whole graph tell, and the places that are left are pairs without an edge. Sums of all rows, of
which the wanted ones are then taken, would need no such room but read every edge: of a graph of
Amazon-Book's size 2.6 million instead of the 79,000 of a batch's items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from recbole_tinykg import ops
from recbole_tinykg.graph.csr import register_buffers, row_pointers

PAIR_BLOCK = 4096
"""Pairs that dense work handles at a time on a CPU: 4096 x 64 floats stay in a core's cache."""

PAIR_BLOCK_ROWS = 16384
"""The most rows that a block of pairs may belong to."""

DEVICE_BLOCKS = 4
"""On a GPU blocks have as many pairs as a graph has edges, over this number.

So launches do not grow with the graph, and the two maps of a block's pairs are half a row per edge,
of which a layer with a row per edge has several at once.
"""


class _Block(NamedTuple):
    """Ranges of rows and of pairs, and the number of the block."""

    rows: slice
    pairs: slice
    number: int


class _BlockSize(NamedTuple):
    """The most rows and pairs of a block."""

    rows: int
    pairs: int


class RelationGradient(NamedTuple):
    """Where to add the gradient of the relations, and the rows that it is made of."""

    out: Tensor  # (num_relations, D), added to
    ego: Callable[[slice], Tensor]  # x of a range of rows


class PairedEdges(nn.Module):
    """Edges (row, relation, column), sorted by row and relation.

    Args:
        row: (E,) int64 row of each edge.
        relation: (E,) int64 relation of each edge.
        col: (E,) int64 column of each edge.
        num_rows: M; some rows may have no edge.
        num_relations: Number of relations.
    """

    order: Tensor  # (E,) int32: place of each sorted edge in the arguments
    col: Tensor  # (E,) int32
    pair_crow: Tensor  # (P + 1,) int32: where the edges of each pair begin
    pair_relation: Tensor  # (P,) int32
    pair_row: Tensor  # (P,) int32: row of each pair, counted from the first row of its block
    row_crow: Tensor  # (M + 1,) int32: where the pairs of each row begin
    block_crow: Tensor  # (M + num_blocks,) int32: the same, block by block, counted within it
    relation_crow: Tensor  # (num_blocks * (num_relations + 1),) int32: pointers into the next
    relation_col: Tensor  # (P,) int32: pairs of each block by relation, counted within it

    def __init__(
        self, row: Tensor, relation: Tensor, col: Tensor, num_rows: int, num_relations: int
    ) -> None:
        super().__init__()
        self.num_rows, self.num_relations = num_rows, num_relations
        key = row * num_relations + relation
        order = torch.argsort(key, stable=True)
        pairs, edges_of_pair = torch.unique_consecutive(key[order], return_counts=True)
        pair_row = pairs // num_relations
        row_crow = row_pointers(torch.bincount(pair_row, minlength=num_rows))
        register_buffers(
            self,
            order=order.int(),
            col=col[order].int(),
            pair_crow=row_pointers(edges_of_pair),
            pair_relation=(pairs % num_relations).int(),
            row_crow=row_crow,
        )
        pairs_of_row = torch.bincount(row_crow.diff()).tolist()
        self._rows_with_pairs = list(enumerate(pairs_of_row))[::-1]
        self._divide()

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Move as `to` and `cuda` ask, and divide the pairs as suits the device."""
        super()._apply(*args, **kwargs)
        if self.block_size != _block_size(self.num_edges, self.col.device):
            self._divide()
        return self

    def _divide(self) -> None:
        """Divide the pairs into blocks; register what is counted within each.

        That is rows, row pointers and pairs by relation.
        """
        self.block_size = _block_size(self.num_edges, self.col.device)
        row_crow, pair_relation = self.row_crow.cpu(), self.pair_relation.cpu()
        pair_row = torch.repeat_interleave(row_crow.diff().long())
        self.blocks = _divide_pairs(row_crow, self.block_size)
        nothing = torch.zeros(0, dtype=torch.int32)
        rows, crows, relation_crows, relation_cols = [nothing], [nothing], [nothing], [nothing]
        for block in self.blocks:
            relation = pair_relation[block.pairs]
            rows.append(pair_row[block.pairs] - block.rows.start)
            crows.append(row_crow[block.rows.start : block.rows.stop + 1] - block.pairs.start)
            counts = torch.bincount(relation, minlength=self.num_relations)
            relation_crows.append(row_pointers(counts))
            relation_cols.append(torch.argsort(relation, stable=True))
        counted = {
            "pair_row": torch.cat(rows),
            "block_crow": torch.cat(crows),
            "relation_crow": torch.cat(relation_crows),
            "relation_col": torch.cat(relation_cols),
        }
        device = self.col.device
        register_buffers(self, **{name: t.int().to(device) for name, t in counted.items()})

    @property
    def num_edges(self) -> int:
        """Number of edges, E."""
        return len(self.col)

    def degrees(self, values: Tensor) -> Tensor:
        """Return the sum (M,) of each row's values; `values` (E,) are in the order of `col`."""
        total = torch.zeros(len(values) + 1, dtype=torch.float64, device=values.device)
        torch.cumsum(values, 0, dtype=torch.float64, out=total[1:])
        ends = total.index_select(0, self.pair_crow.index_select(0, self.row_crow))
        return ends.diff().to(values.dtype)

    def add_sums_(
        self,
        out: Tensor,  # (M, D)
        values: Tensor,  # (E,) in the order of `col`
        dense: Tensor,  # (N, D)
        relations: Tensor,  # (num_relations, D)
        places: Tensor | None = None,  # (K,) int32, as in `ops.spmm`
        gradient: RelationGradient | None = None,
    ) -> None:
        """Add every row's sum over its edges, and to the gradient of the relations, in place."""
        for block in self.blocks:
            crow = self.pair_crow[block.pairs.start : block.pairs.stop + 1]
            sums = ops.spmm(crow, self.col, values, dense, places=places)  # (p, D)
            if gradient is not None:
                self._add_relation_gradient_(gradient, sums, block)
            start = block.rows.start + block.number
            crow = self.block_crow[start : start + block.rows.stop - block.rows.start + 1]
            relation = self.pair_relation[block.pairs]
            _add_pairs_(out[block.rows], crow, sums, relations, relation)

    def _add_relation_gradient_(
        self, gradient: RelationGradient, sums: Tensor, block: _Block
    ) -> None:
        """Add what the sums (p, D) of a block's pairs give, times their rows."""
        rows = gradient.ego(block.rows).index_select(0, self.pair_row[block.pairs])
        products = rows.mul_(sums)  # (p, D)
        start = block.number * (self.num_relations + 1)
        crow = self.relation_crow[start : start + self.num_relations + 1]
        col = self.relation_col[block.pairs]
        ops.spmm_add_(gradient.out, crow, col, products.new_ones(len(col)), products)

    def sums_of(
        self,
        rows: Tensor,  # (R,) int64, -1 for a row without edges
        values: Tensor,  # (E,) in the order of `col`
        dense: Tensor,  # (N, D)
        relations: Tensor,  # (num_relations, D)
        places: Tensor | None = None,  # (K,) int32, as in `ops.spmm`
        *,
        static_shapes: bool = False,
    ) -> Tensor:
        """Return the sums (R, D) of the rows `rows` alone."""
        out = dense.new_zeros(len(rows), dense.shape[1])
        pairs, crow = self._pairs_of(rows, static_shapes)
        for start in range(0, len(pairs), self.block_size.pairs):
            own = pairs[start : start + self.block_size.pairs]
            sums = ops.spmm(self.pair_crow, self.col, values, dense, own, places)
            own_crow = (crow - start).clamp_(0, len(own))
            relation = self.pair_relation.index_select(0, own.clamp(min=0))
            _add_pairs_(out, own_crow, sums, relations, relation)
        return out

    def _pairs_of(self, rows: Tensor, static_shapes: bool) -> tuple[Tensor, Tensor]:
        """Return the pairs of rows (R,), row by row, and where each row's begin (R + 1,).

        With static shapes there are more places than pairs, and -1 in those that are left.
        """
        first = self.row_crow.index_select(0, rows.clamp(min=0))
        last = self.row_crow.index_select(0, rows.clamp(min=0) + (rows >= 0))
        crow = row_pointers(last - first)
        shift = first - crow[:-1]
        if not static_shapes:
            shift = torch.repeat_interleave(shift, (last - first).long())
            return shift + torch.arange(len(shift), device=rows.device), crow
        place = torch.arange(self._most_pairs(len(rows)), dtype=torch.int32, device=rows.device)
        row = torch.searchsorted(crow[1:], place, right=True).clamp_(max=len(rows) - 1)
        pairs = torch.where(place < crow[-1], shift.index_select(0, row) + place, -1)
        return pairs.long(), crow

    def _most_pairs(self, num_rows: int) -> int:
        """Return how many pairs so many rows have at most: those of the rows with most pairs."""
        total = 0
        for num_pairs, num_with in self._rows_with_pairs:
            total += num_pairs * min(num_with, num_rows)
            num_rows -= min(num_with, num_rows)
        return total


def _add_pairs_(
    out: Tensor,  # (r, D)
    crow: Tensor,  # (r + 1,) int32
    sums: Tensor,  # (p, D), overwritten
    relations: Tensor,  # (num_relations, D)
    relation: Tensor,  # (p,)
) -> None:
    """Add to each row the sums of its pairs times their relations."""
    sums.mul_(relations.index_select(0, relation))
    col = torch.arange(len(sums), dtype=crow.dtype, device=crow.device)
    ops.spmm_add_(out, crow, col, sums.new_ones(len(sums)), sums)


def _block_size(num_edges: int, device: torch.device) -> _BlockSize:
    """Return how large the blocks of a graph are on a device."""
    if device.type == "cpu":
        return _BlockSize(PAIR_BLOCK_ROWS, PAIR_BLOCK)
    pairs = max(PAIR_BLOCK, num_edges // DEVICE_BLOCKS)
    return _BlockSize(4 * pairs, pairs)


def _divide_pairs(row_crow: Tensor, size: _BlockSize) -> list[_Block]:
    """Divide into blocks of `size` rows and pairs at most, or of one row."""
    blocks: list[_Block] = []
    num_rows, row, pair = len(row_crow) - 1, 0, 0
    while row < num_rows:
        most = torch.tensor(pair + size.pairs, dtype=row_crow.dtype)
        fitting = int(torch.searchsorted(row_crow, most, right=True)) - 1
        stop = min(max(fitting, row + 1), row + size.rows, num_rows)
        last = int(row_crow[stop])
        blocks.append(_Block(slice(row, stop), slice(pair, last), len(blocks)))
        row, pair = stop, last
    return blocks
