"""How the twins' data loaders walk through rows: in tensors of row numbers.

RecBole's loaders are PyTorch's `DataLoader` over `list(range(N))`: a Python number for each row
of the data, and again for each row of every epoch. What decides the batches is only the loader's
generator, and what `DataLoader` and `RandomSampler` draw from it: a seed for worker processes
when an epoch begins, a permutation, and, once the rows are used up, a permutation of which nothing
is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class IndexTensors:
    """Goes before a loader class of RecBole's; `collate_fn` then gets a tensor of rows, (B,)."""

    generator: torch.Generator
    shuffle: bool
    sample_size: int
    batch_size: int
    sampler: Any
    collate_fn: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build RecBole's loader, and lets its list of all row numbers go."""
        super().__init__(*args, **kwargs)
        self._let_rows_go()

    def _let_rows_go(self) -> None:
        rows = range(self.sample_size)
        vars(self)["dataset"] = rows  # DataLoader refuses an assignment
        self.sampler.data_source = rows

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch."""
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return self._batches()

    def _batches(self) -> Iterator[Any]:
        if not self.shuffle:
            order = torch.arange(self.sample_size)
        else:
            order = torch.randperm(self.sample_size, generator=self.generator)
        for index in order.split(self.batch_size):
            yield self.collate_fn(index)
        if self.shuffle:
            torch.randperm(self.sample_size, generator=self.generator)


def take(table: Interaction, index: Tensor) -> Interaction:  # (B,)
    """Rows of a table of RecBole's, by a tensor where RecBole goes through a list."""
    columns = table.interaction.items()
    return Interaction({name: column.index_select(0, index) for name, column in columns})
