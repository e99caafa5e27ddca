"""A loader of batches from an `ArrayDataset`, drawn beforehand, as RecBole's trainers want one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from recbole.utils import KGDataLoaderState

from benchmarks.synthetic_data.array_dataset import ArrayDataset
from benchmarks.synthetic_data.synthetic import interactions_and_triples

BATCH = 2048  # RecBole's default


@functools.cache
def array_loader(size: str) -> ArrayLoader:
    """Return the loader of a synthetic data set by the name of its size; drawn once."""
    return ArrayLoader(ArrayDataset(interactions_and_triples(size), kg_reverse_r=True))


class ArrayLoader:
    """Yields the same batch of a phase again and again, as often as an epoch has batches."""

    shuffle = False

    def __init__(self, dataset: ArrayDataset) -> None:
        """Draw a batch of interactions and one of triples."""
        self._dataset = dataset
        self._pairs, self._triples = dataset.pairs(BATCH, seed=1), dataset.triples(BATCH, seed=1)
        self.set_mode(KGDataLoaderState.RS)

    def set_mode(self, state: KGDataLoaderState) -> None:
        """Choose interactions or triples; joint batches are not needed so far."""
        assert state in (KGDataLoaderState.RS, KGDataLoaderState.KG)
        self.state = state

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of an epoch."""
        batch = self._triples if self.state is KGDataLoaderState.KG else self._pairs
        return (batch for _ in range(len(self)))

    def __len__(self) -> int:
        """Batches of an epoch."""
        is_kg = self.state is KGDataLoaderState.KG
        rows = self._dataset.relations if is_kg else self._dataset.inter_feat
        return -(-len(rows) // BATCH)
