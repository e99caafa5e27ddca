"""The bytes that storages take, as an allocator would count them, and their highest sum.

Storages that are made after `start` count until they are gone; older ones never do, as for
`meter.peak_bytes` on a CPU. A finalizer tells us that a storage is gone: PyTorch calls it when the
last tensor on it, in Python or in C++, is released.
"""

from __future__ import annotations

import weakref

from torch import UntypedStorage


class Allocations:
    """The storages that are alive, and the running sum of their bytes.

    Args:
        block_bytes: Every allocation takes a multiple of this.
    """

    def __init__(self, block_bytes: int = 1) -> None:
        self._block_bytes = block_bytes
        self._known: dict[int, int] = {}  # by storage: what it counts for
        self._is_counting = False
        self._live = self._peak = 0

    def start(self) -> None:
        """Count from now on, from zero."""
        self._known = dict.fromkeys(self._known, 0)
        self._is_counting = True
        self._live = self._peak = 0

    def stop(self) -> None:
        """Stop counting: `peak_bytes` stays."""
        self._settle()
        self._is_counting = False

    @property
    def peak_bytes(self) -> int:
        """The highest sum since `start`."""
        self._settle()
        return self._peak

    def allocate(self, storage: UntypedStorage, *, tentative: bool = False) -> None:
        """Count a storage, once, until it is gone.

        Args:
            storage: What was allocated.
            tentative: Storages that are gone before the next allocation do not count together with
                this one, as where a sum is in fact written into one of its terms.
        """
        key = storage._cdata
        if key in self._known:
            return
        self._settle()
        self._known[key] = self._rounded(storage.nbytes()) if self._is_counting else 0
        weakref.finalize(storage, self._release, key)
        self._live += self._known[key]
        if not tentative:
            self._settle()

    def allocate_and_free(self, num_bytes: int) -> None:
        """Count memory that an operator takes and gives back inside one call."""
        if self._is_counting and num_bytes:
            self._settle()
            self._peak = max(self._peak, self._live + self._rounded(num_bytes))

    def _release(self, key: int) -> None:
        self._live -= self._known.pop(key)

    def _settle(self) -> None:
        if self._is_counting:
            self._peak = max(self._peak, self._live)

    def _rounded(self, num_bytes: int) -> int:
        return -(-num_bytes // self._block_bytes) * self._block_bytes
