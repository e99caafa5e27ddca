"""Which rows a layer computes: every node, or (the last layer) only those that a batch reads.

Both offer the same few operations on row blocks, so that a layer is written once. A block's
messages are those of the rows that have neighbours; `message_index` says where they lie in the
block, None when every row has one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from recbole_tinykg.graph.adjacency import Adjacency
from recbole_tinykg.graph.node_rows import NodeRows, Parts
from recbole_tinykg.graph.row_blocks import RowBlock, row_bounds


class AllNodes:
    """Every node is a target; blocks are slices of the parts."""

    def __init__(self, adjacency: Adjacency) -> None:
        """Targets of a hidden layer over `adjacency`."""
        self.adjacency = adjacency
        self.num_rows = adjacency.num_nodes
        self.num_messages = adjacency.num_messages
        self.blocks = adjacency.row_blocks

    def messages(self, parts: Parts) -> Iterator[tuple[RowBlock, Tensor]]:
        """Every block with the messages (k, D) of its rows that have neighbours, one at a time."""
        return self.adjacency.matmul_blocks(parts)

    def message_index(self, block: RowBlock) -> Tensor | None:
        """(k,) rows of the block that have a message, or None for all."""
        if block.last_message - block.first_message == block.stop - block.start:
            return None
        return self.adjacency.message_offset[block.first_message : block.last_message]

    def ego(self, parts: Parts, block: RowBlock) -> Tensor:
        """(n, D) rows of the block, a view."""
        shift = block.part * self.adjacency.sizes[0]
        return parts[block.part][block.start - shift : block.stop - shift]

    def new_gradient(self, like: Tensor, dim: int) -> Tensor:
        """Uninitialised (num_nodes, dim) gradient of the ego embeddings; every row gets written."""
        return like.new_empty(self.num_rows, dim)

    def message_gradient(self, gradient: Tensor, dim: int) -> Tensor:
        """Uninitialised (num_messages, dim) gradient of the messages.

        Where widths agree it lies in the gradient (num_rows, D') of the output, which is ours: a
        block's message rows never lie behind the block, so those written over have been read.
        """
        if gradient.shape[1] == dim:
            return gradient[: self.num_messages]
        return gradient.new_empty(self.num_messages, dim)

    def gradient_rows(self, gradient: Tensor, block: RowBlock) -> Tensor:
        """(n, D) rows of the ego gradient to write the block's into: those themselves."""
        return gradient[block.start : block.stop]

    def write(self, gradient: Tensor, block: RowBlock, rows: Tensor) -> None:
        """Put what was written into `gradient_rows` where it belongs: it is there."""

    def return_messages_(self, gradient: Tensor, messages: Tensor) -> None:
        """Send the gradient of the messages back to their senders."""
        self.adjacency.add_transposed_(gradient, messages)


class BatchNodes:
    """The rows of a batch are the targets; blocks are slices of their list."""

    def __init__(self, adjacency: Adjacency, rows: NodeRows) -> None:
        """Targets of the last layer: the rows `rows` of `adjacency`."""
        self.adjacency = adjacency
        self.rows = rows
        self.num_rows = self.num_messages = len(rows.nodes)
        bounds = row_bounds((rows.num_first, self.num_rows - rows.num_first), rows.nodes.device)
        self.blocks = [RowBlock(part, start, stop, start, stop) for part, start, stop in bounds]

    def messages(self, parts: Parts) -> Iterator[tuple[RowBlock, Tensor]]:
        """Every block with the messages (k, D) of its rows, zero for rows without neighbours."""
        messages = self.adjacency.matmul_rows(self.rows.nodes, parts)
        for block in self.blocks:
            yield block, messages[block.start : block.stop]

    def message_index(self, block: RowBlock) -> Tensor | None:
        """None: every row of the block has a message row."""
        return None

    def ego(self, parts: Parts, block: RowBlock) -> Tensor:
        """(n, D) rows of the block, gathered."""
        shift = block.part * self.rows.offset
        return parts[block.part].index_select(0, self.rows.nodes[block.start : block.stop] - shift)

    def new_gradient(self, like: Tensor, dim: int) -> Tensor:
        """Zero (num_nodes, dim) gradient of the ego embeddings."""
        return like.new_zeros(self.adjacency.num_nodes, dim)

    def message_gradient(self, gradient: Tensor, dim: int) -> Tensor:
        """Uninitialised (R, dim) gradient of the messages; that of the output is the caller's."""
        return gradient.new_empty(self.num_messages, dim)

    def gradient_rows(self, gradient: Tensor, block: RowBlock) -> Tensor:
        """(n, D) rows of the ego gradient to write the block's into: new ones."""
        return gradient.new_empty(block.stop - block.start, gradient.shape[1])

    def write(self, gradient: Tensor, block: RowBlock, rows: Tensor) -> None:
        """Put what was written into `gradient_rows` where it belongs."""
        gradient.index_copy_(0, self.rows.nodes[block.start : block.stop], rows)

    def return_messages_(self, gradient: Tensor, messages: Tensor) -> None:
        """Send the gradient of the messages back to their senders."""
        self.adjacency.add_transposed_rows_(gradient, self.rows.nodes, messages)


Targets = AllNodes | BatchNodes
