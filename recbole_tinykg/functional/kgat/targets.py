"""Which rows a layer computes: every node, or (the last layer) only those that a batch reads.

Both have the same few operations on row blocks, so a layer is written once. A block's messages are
those of the rows that have neighbours; `message_index` says where they lie in the block, and is
None if every row has one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from recbole_tinykg.functional.rows import add_rows_
from recbole_tinykg.graph.adjacency import Adjacency
from recbole_tinykg.graph.distinct import table_rows
from recbole_tinykg.graph.node_rows import NodeRows, Parts
from recbole_tinykg.graph.row_blocks import RowBlock, row_bounds


class AllNodes:
    """Targets of a hidden layer: every node; blocks are slices of the parts."""

    def __init__(self, adjacency: Adjacency) -> None:
        self.adjacency = adjacency
        self.num_rows = adjacency.num_nodes
        self.num_messages = adjacency.num_messages
        self.blocks = adjacency.row_blocks

    def messages(self, parts: Parts) -> Iterator[tuple[RowBlock, Tensor]]:
        """Yield every block with the messages (k, D) of its rows that have neighbours."""
        return self.adjacency.matmul_blocks(parts)

    def message_index(self, block: RowBlock) -> Tensor | None:
        """Return the rows (k,) of the block that have a message, or None for all."""
        if block.last_message - block.first_message == block.stop - block.start:
            return None
        return self.adjacency.message_offset[block.first_message : block.last_message]

    def ego(self, parts: Parts, block: RowBlock) -> Tensor:
        """Return the rows (n, D) of the block, a view."""
        shift = block.part * self.adjacency.sizes[0]
        return parts[block.part][block.start - shift : block.stop - shift]

    def new_gradient(self, like: Tensor, dim: int) -> Tensor:
        """Return an uninitialised gradient (num_nodes, dim) of the ego embeddings."""
        return like.new_empty(self.num_rows, dim)

    def message_gradient(self, gradient: Tensor, dim: int) -> Tensor:
        """Return an uninitialised gradient (num_messages, dim) of the messages.

        If widths agree it shares the memory of `gradient` (num_rows, D'), that of the output, which
        only this layer reads: a block's messages are written over rows of this and earlier blocks.
        """
        if gradient.shape[1] == dim:
            assert all(block.last_message <= block.stop for block in self.blocks)
            return gradient[: self.num_messages]
        return gradient.new_empty(self.num_messages, dim)

    def gradient_rows(self, gradient: Tensor, block: RowBlock) -> Tensor:
        """Return the tensor (n, D) to write the block's ego gradient into: its rows themselves."""
        return gradient[block.start : block.stop]

    def write(self, gradient: Tensor, block: RowBlock, rows: Tensor) -> None:
        """Move what was written into `gradient_rows` to its rows, where it is already."""

    def return_messages_(self, gradient: Tensor, messages: Tensor) -> None:
        """Send the gradient of the messages back to their senders."""
        self.adjacency.add_transposed_(gradient, messages)


class BatchNodes:
    """Targets of the last layer: the rows of a batch; blocks are slices of their list.

    A row that stands for no node has no messages, and the gradient that reaches it is zero.
    """

    def __init__(self, adjacency: Adjacency, rows: NodeRows) -> None:
        self.adjacency = adjacency
        self.rows = rows
        self.num_rows = self.num_messages = len(rows.nodes)
        bounds = row_bounds((rows.num_first, self.num_rows - rows.num_first), rows.nodes.device)
        self.blocks = [RowBlock(part, start, stop, start, stop) for part, start, stop in bounds]

    def messages(self, parts: Parts) -> Iterator[tuple[RowBlock, Tensor]]:
        """Yield every block with the messages (k, D) of its rows, zero without neighbours."""
        messages = self.adjacency.matmul_rows(self.rows.nodes, parts)
        for block in self.blocks:
            yield block, messages[block.start : block.stop]

    def message_index(self, block: RowBlock) -> Tensor | None:
        """Return None: every row of the block has a message."""
        return None

    def ego(self, parts: Parts, block: RowBlock) -> Tensor:
        """Return the rows (n, D) of the block, gathered."""
        shift = block.part * self.rows.offset
        return table_rows(parts[block.part], self.rows.nodes[block.start : block.stop] - shift)

    def new_gradient(self, like: Tensor, dim: int) -> Tensor:
        """Return a gradient (num_nodes, dim) of zeros of the ego embeddings."""
        return like.new_zeros(self.adjacency.num_nodes, dim)

    def message_gradient(self, gradient: Tensor, dim: int) -> Tensor:
        """Return an uninitialised gradient (R, dim) of the messages, in memory of its own."""
        return gradient.new_empty(self.num_messages, dim)

    def gradient_rows(self, gradient: Tensor, block: RowBlock) -> Tensor:
        """Return the tensor (n, D) to write the block's ego gradient into: a new one."""
        return gradient.new_empty(block.stop - block.start, gradient.shape[1])

    def write(self, gradient: Tensor, block: RowBlock, rows: Tensor) -> None:
        """Move what was written into `gradient_rows` to its rows."""
        add_rows_(gradient, self.rows.nodes[block.start : block.stop].clamp(min=0), rows)

    def return_messages_(self, gradient: Tensor, messages: Tensor) -> None:
        """Send the gradient of the messages back to their senders."""
        self.adjacency.add_transposed_rows_(gradient, self.rows.nodes, messages)


Targets = AllNodes | BatchNodes
