"""The split CSR matrix against the dense one."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.graph import row_blocks
from recbole_tinykg.graph.adjacency import Adjacency, slot_keys

SIZES = (5, 11)


def random_matrix(density=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = sum(SIZES)
    dense = torch.rand(n, n, generator=generator, dtype=torch.float64)
    dense[torch.rand(n, n, generator=generator) > density] = 0
    dense[3] = dense[9] = 0  # rows without neighbours
    dense[:, 2] = 0
    row, col = dense.nonzero(as_tuple=True)
    shuffle = torch.randperm(len(row), generator=generator)
    row, col = row[shuffle], col[shuffle]
    keys, order = slot_keys(row, col, SIZES).sort()
    sparse = Adjacency(keys, SIZES).double()
    sparse.set_values(dense[row, col][order])
    return dense, sparse


def product(sparse, x):
    """All messages, put together from those of the blocks."""
    return torch.cat([messages for _, messages in sparse.matmul_blocks(x.split(SIZES))])


@pytest.fixture(params=[4096, 3], ids=["one block a part", "blocks of three rows"])
def matrix(request, monkeypatch):
    monkeypatch.setattr(row_blocks, "ROW_BLOCK", request.param)
    return random_matrix()


def test_messages_are_the_rows_of_the_product(matrix):
    dense, sparse = matrix
    x = torch.randn(sum(SIZES), 4, dtype=torch.float64)
    torch.testing.assert_close(product(sparse, x), (dense @ x)[sparse.message_rows])
    assert sparse.num_messages == int(dense.any(dim=1).sum()) == sum(SIZES) - 2


def test_transpose_is_added_in_place(matrix):
    dense, sparse = matrix
    messages = torch.randn(sparse.num_messages, 4, dtype=torch.float64)
    out = torch.randn(sum(SIZES), 4, dtype=torch.float64)
    expected = out + dense[sparse.message_rows].t() @ messages
    sparse.add_transposed_(out, messages)
    torch.testing.assert_close(out, expected)


def test_selected_rows_and_their_transpose(matrix):
    dense, sparse = matrix
    nodes = torch.tensor([0, 3, 4, 7, 9, 15])
    x = torch.randn(sum(SIZES), 4, dtype=torch.float64)
    torch.testing.assert_close(sparse.matmul_rows(nodes, x.split(SIZES)), dense[nodes] @ x)
    messages = torch.randn(len(nodes), 4, dtype=torch.float64)
    out = torch.zeros(sum(SIZES), 4, dtype=torch.float64)
    sparse.add_transposed_rows_(out, nodes, messages)
    torch.testing.assert_close(out, dense[nodes].t() @ messages)


def test_csr_round_trip(matrix):
    dense, sparse = matrix
    crow, col, values = sparse.to_csr()
    expected = dense.to_sparse_csr()
    assert torch.equal(crow, expected.crow_indices()) and torch.equal(col, expected.col_indices())
    assert torch.equal(values, expected.values())
    doubled = random_matrix()[1]
    doubled.load_csr(crow, col, 2 * values)
    x = torch.randn(sum(SIZES), 4, dtype=torch.float64)
    messages = torch.randn(sparse.num_messages, 4, dtype=torch.float64)
    torch.testing.assert_close(product(doubled, x), 2 * product(sparse, x))
    out = torch.zeros(sum(SIZES), 4, dtype=torch.float64)
    doubled.add_transposed_(out, messages)
    torch.testing.assert_close(out, 2 * dense[sparse.message_rows].t() @ messages)


def test_another_graphs_values_are_refused(matrix):
    other = random_matrix(seed=1)[1]
    with pytest.raises(ValueError, match="crow and col must be the pattern of this graph"):
        matrix[1].load_csr(*other.to_csr())
    with pytest.raises(ValueError, match="values must have shape"):
        matrix[1].set_values(torch.ones(3))


def test_row_blocks_cover_every_row_and_message_once(matrix):
    _, sparse = matrix
    rows = [row for block in sparse.row_blocks for row in range(block.start, block.stop)]
    messages = [
        block.start + int(offset)
        for block in sparse.row_blocks
        for offset in sparse.message_offset[block.first_message : block.last_message]
    ]
    assert rows == list(range(sum(SIZES)))
    assert messages == sparse.message_rows.tolist()
