r"""A fixed sparse matrix over two kinds of nodes, as CSR and as the CSR of its transpose.

Message passing computes :math:`S = A E` forward and :math:`A^\top G` backward with the same `A` in
every step, so both orders are built once. Four choices keep it small and fast:

* Nodes come in two parts (users, then entities) whose embeddings are two parameters. The columns of
  `A` are split at the border, so that :math:`S = A_{:,0} E_0 + A_{:,1} E_1` needs no concatenated
  copy of the embeddings.
* Only rows that receive a message are stored. In ml-100k's collaborative graph 7,880 of 35,573
  nodes have a neighbour: the rest would cost time and memory for rows of zeros.
* Indices are int32, one per entry and order: 16 bytes an entry with both orders' values. How the
  entries are ordered in the transpose is not stored but found again whenever the values change,
  once an epoch.
* It is built from one sorted array of keys, in time that grows with the number of entries.

The tensors are non-persistent buffers: they move with the module and stay out of `state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from recbole_tinykg import ops
from recbole_tinykg.graph.csr import register_buffers, row_places, row_pointers
from recbole_tinykg.graph.row_blocks import RowBlock, row_bounds


class Adjacency(nn.Module):
    """A sparse (N, N) matrix, N = sizes[0] + sizes[1]; values are 0 until `set_values`.

    Args:
        keys: (E,) int64 `slot_keys` of the entries, sorted and unique.
        sizes: numbers of nodes in the two parts.

    An entry's *slot* is its place in `values`: entries of the first column part come first, each
    part in CSR order.
    """

    values: Tensor  # (E,) in slot order
    col: Tensor  # (E,) int32 in slot order: column within its part
    values_t: Tensor  # (E,) in the order of the transpose
    col_t: Tensor  # (E,) int32 in the order of the transpose: message rows
    crow_t: Tensor  # (N + 1,) int32
    message_rows: Tensor  # (M,) int64: rows that have an entry
    message_offset: Tensor  # (M,) int64: their places in their row blocks
    message_position: Tensor  # (N,) int32: place among the message rows, -1 without entries

    def __init__(self, keys: Tensor, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_nodes = sum(sizes)
        border = int(torch.searchsorted(keys, self.num_nodes**2))
        self.slots = slice(0, border), slice(border, len(keys))
        row = keys // self.num_nodes
        col = keys.remainder(self.num_nodes).int()
        for part in (0, 1):
            row[self.slots[part]] -= part * self.num_nodes
            col[self.slots[part]] -= part * sizes[0]
        register_buffers(self, col=col)
        self._register_rows(row)
        self._divide_rows()
        self._register_transpose()
        register_buffers(self, values=torch.zeros(len(keys)), values_t=torch.zeros(len(keys)))

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Divide into blocks again after `to`, `cuda` and so on: they differ between devices."""
        super()._apply(*args, **kwargs)
        self._divide_rows()
        return self

    def _register_rows(self, row: Tensor) -> None:
        """Register the rows with entries, and pointers to their entries in both column parts."""
        counts = [torch.bincount(row[slots], minlength=self.num_nodes) for slots in self.slots]
        messages = (counts[0] + counts[1]).nonzero().view(-1)
        position = torch.full((self.num_nodes,), -1, dtype=torch.int32)
        position[messages] = torch.arange(len(messages), dtype=torch.int32)
        crow_0, crow_1 = (row_pointers(count[messages]) for count in counts)
        register_buffers(
            self, message_rows=messages, message_position=position, crow_0=crow_0, crow_1=crow_1
        )

    def _register_transpose(self) -> None:
        counts = [
            torch.bincount(self.col[slots], minlength=size)
            for slots, size in zip(self.slots, self.sizes, strict=True)
        ]
        register_buffers(
            self, crow_t=row_pointers(torch.cat(counts)), col_t=torch.empty_like(self.col)
        )
        for block, places in self._transposed_places():
            own = torch.arange(block.first_message, block.last_message, dtype=torch.int32)
            self.col_t[places] = torch.cat(
                [torch.repeat_interleave(own, p.diff()) for p in self.pointers(block)]
            )

    def _divide_rows(self) -> None:
        """Divide the rows into blocks, and say where each message row lies in its block."""
        device = self.message_rows.device
        bounds = row_bounds(self.sizes, device)
        stops = torch.tensor([stop for _, _, stop in bounds], device=device)
        last = torch.searchsorted(self.message_rows, stops)
        ends = [last, *(self._crow(part)[last] + self.slots[part].start for part in (0, 1))]
        firsts = [0, *(slots.start for slots in self.slots)]
        borders = [firsts, *torch.stack(ends, dim=1).tolist()]
        self.row_blocks = [
            RowBlock(*bound, i, j, (slice(i_0, j_0), slice(i_1, j_1)))
            for bound, (i, i_0, i_1), (j, j_0, j_1) in zip(
                bounds, borders[:-1], borders[1:], strict=True
            )
        ]
        starts, lengths = torch.tensor(
            [(b.start, b.last_message - b.first_message) for b in self.row_blocks], device=device
        ).unbind(1)
        first_rows = torch.repeat_interleave(starts, lengths, output_size=self.num_messages)
        register_buffers(self, message_offset=self.message_rows - first_rows)

    def _crow(self, part: int) -> Tensor:
        """Return pointers (M + 1,) int32 of the message rows into the slots of a column part."""
        pointers: Tensor = getattr(self, f"crow_{part}")
        return pointers

    def pointers(self, block: RowBlock) -> tuple[Tensor, Tensor]:
        """Return pointers (k + 1,) of a block's message rows into either column part."""
        rows = slice(block.first_message, block.last_message + 1)
        return self._crow(0)[rows], self._crow(1)[rows]

    def _transposed_places(self) -> Iterator[tuple[RowBlock, Tensor]]:
        """Yield every row block and the places (e,) int64 of its slots in the transpose's order.

        Rows come in order, so a column's entries of earlier blocks lie before those of this one.
        """
        free = self.crow_t[:-1].long()  # of each column, the first place that is still free
        for block in self.row_blocks:
            col = torch.cat([self.columns(slots) for slots in block.entries])
            column, order = torch.sort(col, stable=True)
            rank = torch.arange(len(col), device=col.device) - torch.searchsorted(column, column)
            places = torch.empty_like(order)
            places[order] = free.index_select(0, column).add_(rank)
            free.scatter_add_(0, col, torch.ones_like(col))
            yield block, places

    def set_values(self, values: Tensor) -> None:
        """Replace the values, given in slot order; the sparsity pattern stays."""
        if values.shape != self.values.shape:
            raise ValueError(
                f"values must have shape {tuple(self.values.shape)}, one per entry; "
                f"got {tuple(values.shape)}"
            )
        self.values.copy_(values)
        for block, places in self._transposed_places():
            self.values_t[places] = torch.cat([self.values[slots] for slots in block.entries])

    def rows(self) -> Tensor:
        """Return the row (E,) int32 of each slot."""
        rows = self.message_rows.int()
        of_parts = [
            torch.repeat_interleave(
                rows, self._crow(part).diff(), output_size=slots.stop - slots.start
            )
            for part, slots in enumerate(self.slots)
        ]
        return torch.cat(of_parts)

    def columns(self, slots: Tensor | slice) -> Tensor:
        """Return the columns (K,) int64 of slots (K,) int64, or of a range within one part."""
        border, shift = self.slots[1].start, self.sizes[0]
        if isinstance(slots, slice):
            return self.col[slots].long().add_(shift if slots.start >= border else 0)
        return self.col.index_select(0, slots) + (slots >= border) * shift

    def to_csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrix as one CSR: pointers (N + 1,) and columns (E,) int64, values (E,)."""
        counts = self.message_rows.new_zeros(self.num_nodes)
        counts[self.message_rows] = (self._crow(0).diff() + self._crow(1).diff()).long()
        places = self._csr_places()
        slots = torch.arange(len(self.col), device=self.col.device)
        col = torch.empty_like(places).index_copy_(0, places, self.columns(slots))
        values = torch.empty_like(self.values).index_copy_(0, places, self.values)
        return row_pointers(counts, torch.int64), col, values

    def _csr_places(self) -> Tensor:
        """Return the place (E,) int64 of each slot in `to_csr`, which joins a row's two parts."""
        first, second = self._crow(0), self._crow(1)
        before = torch.cat([second[:-1], first[1:] - self.slots[1].start])  # of the other part
        counts = torch.cat([first.diff(), second.diff()])
        places = torch.repeat_interleave(before, counts, output_size=len(self.col)).long()
        return places.add_(torch.arange(len(self.col), device=self.col.device))

    def load_csr(self, crow: Tensor, col: Tensor, values: Tensor) -> None:
        """Take the values of a matrix with the same sparsity pattern, as from `to_csr`.

        Raises:
            ValueError: The pattern differs.
        """
        own_crow, own_col, _ = self.to_csr()
        if not (torch.equal(crow.to(own_crow), own_crow) and torch.equal(col.to(own_col), own_col)):
            raise ValueError(
                f"crow and col must be the pattern of this graph, {len(own_col)} entries in "
                f"{len(own_crow) - 1} rows; got {len(col)} entries in {len(crow) - 1} rows"
            )
        self.set_values(values.to(self.values).index_select(0, self._csr_places()))

    @property
    def num_messages(self) -> int:
        """Number of rows with at least one entry."""
        return len(self.message_rows)

    def csr(self, part: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return pointers, columns and values of the message rows for one column part.

        The values are of type `dtype`: what they multiply, autocast may have lowered.
        """
        slots = self.slots[part]
        return self._crow(part), self.col[slots], self.values[slots].to(dtype or self.values.dtype)

    def matmul_blocks(
        self,
        parts: tuple[Tensor, Tensor],  # (sizes[p], D)
    ) -> Iterator[tuple[RowBlock, Tensor]]:
        """Yield every row block with the messages (k, D) of its message rows."""
        values = [self.values.to(part.dtype) for part in parts]
        for block in self.row_blocks:
            first, second = (
                (crow, self.col[slots], value[slots])
                for crow, slots, value in zip(self.pointers(block), self.slots, values, strict=True)
            )
            messages = ops.spmm(*first, parts[0])
            ops.spmm_add_(messages, *second, parts[1])
            yield block, messages

    def add_transposed_(self, out: Tensor, messages: Tensor) -> None:
        """Add the transpose times messages (num_messages, D) to out (num_nodes, D) in place."""
        ops.spmm_add_(out, self.crow_t, self.col_t, self.values_t.to(out.dtype), messages)

    def matmul_rows(
        self,
        nodes: Tensor,  # (R,)
        parts: tuple[Tensor, Tensor],  # (sizes[p], D)
    ) -> Tensor:
        """Return the messages (R, D) of nodes, zero where one has no entry or is -1."""
        rows = self._message_rows_of(nodes)
        messages = ops.spmm(*self.csr(0, parts[0].dtype), parts[0], rows)
        ops.spmm_add_(messages, *self.csr(1, parts[1].dtype), parts[1], rows)
        return messages

    def _message_rows_of(self, nodes: Tensor) -> Tensor:
        """Return the place (R,) int64 of each node (R,) among the message rows, -1 without."""
        rows = self.message_position.index_select(0, nodes.clamp(min=0)).long()
        return torch.where(nodes < 0, -1, rows)

    def add_transposed_rows_(
        self,
        out: Tensor,  # (num_nodes, D)
        nodes: Tensor,  # (R,) unique, -1 for none
        messages: Tensor,  # (R, D)
    ) -> None:
        """Add the transpose of the rows `nodes` times messages to `out` in place."""
        places = row_places(self._message_rows_of(nodes), self.num_messages)
        values = self.values_t.to(out.dtype)
        ops.spmm_add_(out, self.crow_t, self.col_t, values, messages, places=places)


def slot_keys(
    row: Tensor,  # (E,) int64
    col: Tensor,  # (E,) int64
    sizes: tuple[int, int],
) -> Tensor:
    """Return keys (E,) int64 of entries, which sort as their slots: by column part, row, column."""
    keys = (col >= sizes[0]).long()
    for digit in (row, col):
        keys.mul_(sum(sizes)).add_(digit)
    return keys
