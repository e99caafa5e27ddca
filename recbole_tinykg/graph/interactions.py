r"""The means of users' items: a fixed sparse matrix, its transpose, and dropout of its entries.

Row u of the matrix holds 1 / (number of the user's items) for each of them. Forward needs the rows
of a batch's users, backward the transpose of those rows; both patterns are built once. Dropout of
entries is drawn from a position of a noise stream, in forward and again in backward: it keeps 0
bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_tinykg import ops
from recbole_tinykg.graph.csr import register_buffers, row_places, row_pointers


class Interactions(nn.Module):
    """Sparse (num_users, num_items) matrix of means.

    Args:
        user: (E,) int64 user of each interaction; a repeated pair counts once.
        item: (E,) int64 item of each interaction.
        sizes: numbers of users and of items.
    """

    crow: Tensor  # (num_users + 1,) int32
    col: Tensor  # (E,) int32 items
    values: Tensor  # (E,) float
    crow_t: Tensor  # (num_items + 1,) int32
    col_t: Tensor  # (E,) int32 users
    order_t: Tensor  # (E,) int32: place of each entry of the transpose in `values`
    values_t: Tensor  # (E,) float

    def __init__(self, user: Tensor, item: Tensor, sizes: tuple[int, int]) -> None:
        super().__init__()
        num_users, num_items = sizes
        key = torch.unique(user * num_items + item)
        user, item = key // num_items, key % num_items
        counts = torch.bincount(user, minlength=num_users)
        order_t = torch.argsort(item, stable=True)
        values = 1 / counts[user].float()
        register_buffers(
            self,
            crow=row_pointers(counts),
            col=item.int(),
            values=values,
            crow_t=row_pointers(torch.bincount(item, minlength=num_items)),
            col_t=user[order_t].int(),
            order_t=order_t.int(),
            values_t=values[order_t],
        )
        self.num_users = num_users

    def sample(self, stream: Tensor, probability: float, transposed: bool) -> Tensor:
        """Return the values (E,) after dropout, in the order of the matrix or of its transpose."""
        if probability == 0:
            return self.values_t if transposed else self.values
        values = ops.dropout(self.values[None], stream, probability=probability)[0]
        return values.index_select(0, self.order_t) if transposed else values

    def means_of(
        self,
        users: Tensor,  # (U,) int64
        values: Tensor,  # (E,)
        dense: Tensor,  # (N, D)
        places: Tensor | None = None,  # (num_items or more,) int32, as in `ops.spmm`
    ) -> Tensor:
        """Return the means (U, D) of the users' items."""
        return ops.spmm(self.crow, self.col, values, dense, users, places)

    def add_transposed_(
        self,
        out: Tensor,  # (num_items, D), or (R, D) with rows
        users: Tensor,  # (U,) int64, unique
        values: Tensor,  # (E,) of the transpose
        gradient: Tensor,  # (U, D)
        rows: Tensor | None = None,  # (R,) int64 items, -1 for no item
    ) -> None:
        """Add the gradient of the items through `means_of`, in place."""
        places = row_places(users, self.num_users)
        ops.spmm_add_(out, self.crow_t, self.col_t, values, gradient, rows, places)
