"""Draws negatives as RecBole draws them, number by number, with the rejections vectorised.

RecBole draws a value for each key from NumPy's global generator, looks each one up in a Python set
of the key's known values, and draws again for those that are known. Here the known pairs are one
sorted array of integers, key · num_values + value, and one binary search looks up all values of a
batch. Before it, a table of bits at hashed places rules out most unknown pairs by one access to
memory, where a search in millions of pairs takes twenty; where keys and values are few, a table of
all pairs answers alone. The draws, their number and their order are RecBole's, for every
distribution: batches and the random state after them are the same to the bit. A pair takes 9 to 10
bytes, and a table at most 4 MiB; a Python set takes some 60 per value, and RecBole copies the sets
of training for each later phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.sampler import KGSampler, Sampler
from torch import Tensor

from recbole_tinykg.errors import ConfigurationError

_BEYOND = np.iinfo(np.int64).max
_BITS_PER_PAIR = 8  # at least, and at most twice as many
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbours far apart
_CHUNK = 2**18
_TABLE_PAIRS = 2**22  # at most, known or not, for a table of a byte each


class Pairs:
    """A set of pairs (key, value), sorted by key and then by value.

    Args:
        keys: (P,) integers from 0 to `num_keys - 1`.
        values: (P,) integers from 0 to `num_values - 1`; pairs may be repeated.
        num_keys: Number of possible keys.
        num_values: Number of possible values.
    """

    def __init__(
        self, keys: np.ndarray, values: np.ndarray, num_keys: int, num_values: int
    ) -> None:
        """Sort the pairs and drop repetitions."""
        self.num_keys, self.num_values = num_keys, num_values
        codes = np.sort(keys.astype(np.int64) * num_values + values)  # np.unique takes 100 times it
        self._store(codes[np.append(True, codes[1:] != codes[:-1])] if len(codes) else codes)

    def _store(self, codes: np.ndarray) -> None:
        """Store sorted codes, a sentinel after them to end searches inside; a table or marks."""
        self._codes = np.append(codes, _BEYOND)
        self._table: np.ndarray | None = None
        if self.num_keys * self.num_values <= _TABLE_PAIRS:
            self._table = np.zeros(self.num_keys * self.num_values, dtype=bool)
            self._table[codes] = True
            return
        num_bits = (_BITS_PER_PAIR * len(codes) + 7).bit_length()
        self._shift = np.uint64(64 - num_bits)
        self._marks = np.zeros(2**num_bits // 8, dtype=np.uint8)
        for start in range(0, len(codes), _CHUNK):
            np.bitwise_or.at(self._marks, *self._places(codes[start : start + _CHUNK]))

    def _places(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (M,) -> (M,), (M,)
        """Return the byte of each code's mark, and the bit in it."""
        place = (codes.view(np.uint64) * _GOLDEN >> self._shift).view(np.int64)
        return place >> 3, np.left_shift(1, place & 7).astype(np.uint8)

    def __len__(self) -> int:
        return len(self._codes) - 1

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return bool(self.contains(np.array([pair[0]]), np.array([pair[1]])).all())

    def __getitem__(self, key: int) -> set[int]:
        """Return the values of one key, as RecBole stores them."""
        return set(self.rows(np.array([key]))[1].tolist())

    def contains(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:  # (M,) -> (M,) bool
        """Tell which of the pairs `(keys[i], values[i])` are in the set."""
        codes = keys * self.num_values + values
        if self._table is not None:
            return self._table[codes]
        byte, bit = self._places(codes)
        (marked,) = (self._marks[byte] & bit).nonzero()
        candidates, found = codes[marked], np.zeros(len(codes), dtype=bool)
        found[marked] = self._codes[self._codes.searchsorted(candidates)] == candidates
        return found

    def counts(self) -> np.ndarray:  # (num_keys,)
        """Count the values of every key."""
        return np.bincount(self._codes[:-1] // self.num_values, minlength=self.num_keys)

    def without(self, other: Pairs) -> Pairs:
        """Return the pairs that are not in `other`."""
        rest = object.__new__(Pairs)
        rest.num_keys, rest.num_values = self.num_keys, self.num_values
        is_new = ~np.isin(self._codes[:-1], other._codes[:-1], assume_unique=True)
        rest._store(self._codes[:-1][is_new])
        return rest

    def rows(self, keys: np.ndarray) -> tuple[Tensor, Tensor]:  # (B,) -> (P',), (P',)
        """Return for every pair of the keys: the place of its key in `keys`, and its value."""
        starts = np.searchsorted(self._codes, keys * self.num_values)
        lengths = np.searchsorted(self._codes, (keys + 1) * self.num_values) - starts
        row = np.repeat(np.arange(len(keys)), lengths)
        skipped = starts - np.append(0, np.cumsum(lengths)[:-1])
        codes = self._codes[skipped[row] + np.arange(len(row))]
        return torch.from_numpy(row), torch.from_numpy(codes % self.num_values)


class _Vectorised:
    """Mixin of both samplers: RecBole's rejection loop, a batch at a time."""

    used_ids: Any

    def sample_by_key_ids(self, key_ids: Any, num: int) -> Tensor:  # (B,) -> (num · B,)
        """Draw `num` unknown values per key, ordered as RecBole's `sample_by_key_ids` does.

        Raises:
            IndexError: There is no such key.
        """
        keys = np.asarray(key_ids, dtype=np.int64)
        keys = keys if num == 1 else np.tile(keys, num)
        if keys.view(np.uint64).max() >= self.used_ids.num_keys:  # a negative one is huge there
            raise IndexError(f"keys must lie in [0, {self.used_ids.num_keys})")
        values = self._draw(len(keys))
        (rejected,) = self.used_ids.contains(keys, values).nonzero()
        while len(rejected):
            values[rejected] = drawn = self._draw(len(rejected))
            rejected = rejected[self.used_ids.contains(keys[rejected], drawn)]
        return torch.from_numpy(values)

    def _draw(self, num: int) -> np.ndarray:
        return np.asarray(self.sampling(num), dtype=np.int64)  # type: ignore[attr-defined]


class ItemSampler(_Vectorised, Sampler):
    """RecBole's `Sampler`: items that a user does not know in a phase or those before it."""

    def get_used_ids(self) -> dict[str, Pairs]:
        """Return the pairs (user, item) known in each phase.

        Raises:
            ConfigurationError: A user knows all items.
        """
        used, users, items = {}, [], []
        for phase, dataset in zip(self.phases, self.datasets, strict=True):
            users.append(dataset.inter_feat[self.uid_field].numpy())
            items.append(dataset.inter_feat[self.iid_field].numpy())
            used[phase] = Pairs(
                np.concatenate(users), np.concatenate(items), self.user_num, self.item_num
            )
        _check_unknown(used[self.phases[-1]], "user", "items", "user_inter_num_interval")
        return used


class TailSampler(_Vectorised, KGSampler):
    """RecBole's `KGSampler`: entities that a head is not linked to, by any relation."""

    def get_used_ids(self) -> Pairs:
        """Return the pairs (head, tail) of the graph.

        Raises:
            ConfigurationError: A head is linked to all entities.
        """
        used = Pairs(self.hid_list, self.tid_list, self.entity_num, self.entity_num)
        _check_unknown(used, "head", "entities", "entity_kg_num_interval")
        return used


def _check_unknown(used: Pairs, key: str, values: str, remedy: str) -> None:
    """Raise ConfigurationError if a key has all values, not counting that of the padding."""
    full = np.flatnonzero(used.counts() + 1 >= used.num_values)
    if len(full):
        raise ConfigurationError(
            f"dataset must leave every {key} {values} to draw negatives from; got {len(full)} "
            f"{key} ids that are with all {used.num_values - 1}: filter them by {remedy}"
        )
