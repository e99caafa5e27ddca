"""Makes RecBole's data loaders go through the rows by tensors of row numbers.

RecBole's loaders are PyTorch's `DataLoader` over `list(range(N))`: a Python number for each row
of the data, and again for each row of every epoch. The batches depend only on what `DataLoader`
and `RandomSampler` draw from the loader's generator: a seed for worker processes when an epoch
begins, a permutation, and after the last row another permutation, which is not used. The same
numbers are drawn here, so batches and generators stay those of RecBole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class IndexTensors:
    """Mixin; list it before RecBole's loader class. `collate_fn` gets a tensor of rows, (B,)."""

    generator: torch.Generator
    shuffle: bool
    sample_size: int
    batch_size: int
    sampler: Any
    collate_fn: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drop_row_list()

    def _drop_row_list(self) -> None:
        rows = range(self.sample_size)
        vars(self)["dataset"] = rows  # DataLoader refuses an assignment
        self.sampler.data_source = rows

    def __iter__(self) -> Iterator[Any]:
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
    """Select rows of one of RecBole's tables by a tensor, where RecBole goes through a list."""
    columns = table.interaction.items()
    return Interaction({name: column.index_select(0, index) for name, column in columns})
