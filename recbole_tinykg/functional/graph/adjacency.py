r"""A fixed sparse matrix over two kinds of nodes, as CSR and as the CSR of its transpose.

Message passing computes :math:`S = A E` forward and :math:`A^\top G` backward with the same `A` in
every step, so both orders are built once. Three choices keep it small and fast:

* Nodes come in two parts (users, then entities) whose embeddings are two parameters. The columns of
  `A` are split at the border, so that :math:`S = A_{:,0} E_0 + A_{:,1} E_1` needs no concatenated
  copy of the embeddings.
* Only rows that receive a message are stored. In ml-100k's collaborative graph 7,880 of 35,573
  nodes have a neighbour: the rest would cost time and memory for rows of zeros.
* Indices are int32 wherever the library takes them.

The tensors are non-persistent buffers: they move with the module and stay out of `state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_tinykg import ops

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


class Adjacency(nn.Module):
    """A sparse (N, N) matrix with sorted, unique (row, column) entries, N = sizes[0] + sizes[1].

    Args:
        row: (E,) int64 row of each entry.
        col: (E,) int64 column of each entry.
        values: (E,) value of each entry.
        sizes: numbers of nodes in the two parts.

    An entry's *slot* is its place in `values`: entries of the first column part come first, each
    part in CSR order.
    """

    values: Tensor  # (E,) in slot order
    values_t: Tensor  # (E,) in the order of the transpose
    message_rows: Tensor  # (M,) int64: rows that have an entry
    message_offset: Tensor  # (M,) int64: their places in their row blocks
    message_position: Tensor  # (N,) int32: place among the message rows, -1 for none
    crow_t: Tensor  # (N + 1,) int32
    col_t: Tensor  # (E,) int32: message rows
    order_t: Tensor  # (E,) int32: slot of each entry of the transpose

    def __init__(self, row: Tensor, col: Tensor, values: Tensor, sizes: tuple[int, int]) -> None:
        """Sort the entries into slots and build the transpose."""
        super().__init__()
        self.sizes = sizes
        self.num_nodes = sum(sizes)
        in_first = col < sizes[0]
        order = torch.argsort((~in_first) * self.num_nodes**2 + row * self.num_nodes + col)
        row, col = row[order], col[order]
        self.num_first = int(in_first.sum())
        messages = torch.unique(row)
        position = torch.full((self.num_nodes,), -1, dtype=torch.int64)
        position[messages] = torch.arange(len(messages))
        self._register("message_rows", messages)
        self._register("message_position", position.int())
        self._register_csr(position[row], col, len(messages))
        self._register_transpose(position[row], col)
        self._register("values", values[order].clone())
        self._register("values_t", self.values[self.order_t])
        self.row_blocks = self._row_blocks(messages)
        starts = [
            torch.full((block.last_message - block.first_message,), block.start)
            for block in self.row_blocks
        ]
        self._register("message_offset", messages - torch.cat(starts))

    def _register(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def _register_csr(self, row: Tensor, col: Tensor, num_rows: int) -> None:
        k = self.num_first
        for part, (rows, cols) in enumerate(((row[:k], col[:k]), (row[k:], col[k:]))):
            self._register(f"crow_{part}", _row_pointers(rows, num_rows))
            self._register(f"col_{part}", (cols - part * self.sizes[0]).int())

    def _register_transpose(self, row: Tensor, col: Tensor) -> None:
        order = torch.argsort(col * self.num_nodes + row)
        self._register("crow_t", _row_pointers(col[order], self.num_nodes))
        self._register("col_t", row[order].int())
        self._register("order_t", order.int())

    def _row_blocks(self, messages: Tensor) -> list[RowBlock]:
        bounds = row_bounds(self.sizes)
        last = torch.searchsorted(messages, torch.tensor([stop for _, _, stop in bounds]))
        ends = [last, *(self.csr(part)[0][last] for part in (0, 1))]
        borders = torch.stack([torch.cat([end.new_zeros(1), end]).long() for end in ends], dim=1)
        return [
            RowBlock(*bound, i, j, (slice(i_0, j_0), slice(i_1, j_1)))
            for bound, (i, i_0, i_1), (j, j_0, j_1) in zip(
                bounds, borders[:-1].tolist(), borders[1:].tolist(), strict=True
            )
        ]

    def set_values(self, values: Tensor) -> None:
        """Replace the values, given in slot order; the sparsity pattern stays."""
        if values.shape != self.values.shape:
            raise ValueError(
                f"values must have shape {tuple(self.values.shape)}, one per entry; "
                f"got {tuple(values.shape)}"
            )
        self.values.copy_(values)
        torch.index_select(self.values, 0, self.order_t, out=self.values_t)

    def to_csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """The whole matrix as one CSR: pointers (N + 1,) and columns (E,) int64, values (E,)."""
        rows, cols = self.entries()
        order = torch.argsort(rows * self.num_nodes + cols)
        return _row_pointers(rows, self.num_nodes).long(), cols[order], self.values[order]

    def load_csr(self, crow: Tensor, col: Tensor, values: Tensor) -> None:
        """Take the values of a matrix with the same sparsity pattern, as `to_csr` gives it.

        Raises:
            ValueError: if the pattern differs.
        """
        own_crow, own_col, _ = self.to_csr()
        if not (torch.equal(crow.to(own_crow), own_crow) and torch.equal(col.to(own_col), own_col)):
            raise ValueError(
                f"crow and col must be the pattern of this graph, {len(own_col)} entries in "
                f"{len(own_crow) - 1} rows; got {len(col)} entries in {len(crow) - 1} rows"
            )
        rows, cols = self.entries()
        order = torch.argsort(rows * self.num_nodes + cols)
        self.set_values(torch.empty_like(self.values).index_copy_(0, order, values.to(self.values)))

    def message_of_slots(self) -> Tensor:
        """(E,) int64 message row of each slot."""
        counts = [self.csr(part)[0].diff() for part in (0, 1)]
        rows = torch.arange(self.num_messages, device=self.values.device)
        return torch.cat([torch.repeat_interleave(rows, count) for count in counts])

    def entries(self) -> tuple[Tensor, Tensor]:
        """Row and column (E,) int64 of each slot."""
        cols = torch.cat([self.csr(part)[1].long() + part * self.sizes[0] for part in (0, 1)])
        return self.message_rows[self.message_of_slots()], cols

    @property
    def num_messages(self) -> int:
        """Number of rows with at least one entry."""
        return len(self.message_rows)

    def csr(self, part: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row pointers, columns and values of the message rows for one column part."""
        k = self.num_first
        values = self.values[:k] if part == 0 else self.values[k:]
        return getattr(self, f"crow_{part}"), getattr(self, f"col_{part}"), values

    def matmul_blocks(
        self,
        parts: tuple[Tensor, Tensor],  # (sizes[p], D)
    ) -> Iterator[tuple[RowBlock, Tensor]]:
        """Every row block with the messages (k, D) of its message rows, one at a time."""
        matrices = [self._csr_for(part, parts) for part in (0, 1)]
        for block in self.row_blocks:
            rows = slice(block.first_message, block.last_message + 1)
            first, second = (
                (crow[rows] - chosen.start, col[chosen], values[chosen])
                for chosen, (crow, col, values) in zip(block.entries, matrices, strict=True)
            )
            messages = ops.spmm(*first, parts[0])
            ops.spmm_add_(messages, *second, parts[1])
            yield block, messages

    def _csr_for(self, part: int, dense: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """`csr` with values of the type of `dense`, which autocast may have lowered."""
        crow, col, values = self.csr(part)
        return crow, col, values.to(dense[part].dtype)

    def add_transposed_(self, out: Tensor, messages: Tensor) -> None:
        """Add the transpose times messages (num_messages, D) to out (num_nodes, D) in place."""
        ops.spmm_add_(out, self.crow_t, self.col_t, self.values_t.to(out.dtype), messages)

    def matmul_rows(
        self,
        nodes: Tensor,  # (R,)
        parts: tuple[Tensor, Tensor],  # (sizes[p], D)
    ) -> Tensor:
        """Messages (R, D) of the nodes `nodes`, zero where a node has no entry."""
        rows = self.message_position.index_select(0, nodes).long()
        messages = ops.spmm(*self._csr_for(0, parts), parts[0], rows)
        ops.spmm_add_(messages, *self._csr_for(1, parts), parts[1], rows)
        return messages

    def add_transposed_rows_(
        self,
        out: Tensor,  # (num_nodes, D)
        nodes: Tensor,  # (R,) unique
        messages: Tensor,  # (R, D)
    ) -> None:
        """Add the transpose of the rows `nodes` times messages to `out` in place."""
        position = self.message_position.index_select(0, nodes).long()
        places = position.new_full((self.num_messages + 1,), -1, dtype=torch.int32)
        own = torch.arange(len(nodes), dtype=torch.int32, device=nodes.device)
        places[position] = own  # -1, no message row, is the place at the end, which nobody reads
        values = self.values_t.to(out.dtype)
        ops.spmm_add_(out, self.crow_t, self.col_t, values, messages, places=places)


def row_bounds(sizes: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(part, start, stop) of the row blocks of two stacked parts; no block crosses the border."""
    border, end = sizes[0], sum(sizes)
    return [
        (part, start, min(start + ROW_BLOCK, last))
        for part, (first, last) in enumerate(((0, border), (border, end)))
        for start in range(first, last, ROW_BLOCK)
    ]


def _row_pointers(rows: Tensor, num_rows: int) -> Tensor:
    """CSR row pointers (num_rows + 1,) of sorted row numbers."""
    counts = torch.bincount(rows, minlength=num_rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
