"""Shows how far a pass over batches is: a bar on a terminal, a line in a log.

On a terminal the bar says what it counts. Where standard error is a file or a pipe, a bar would
fill it with hundreds of lines, so RecBole's log gets one line when the pass is done::

    epoch 3, knowledge graph:  62%|██████▏   | 30/48 batches [00:01<00:00, 24.1 batches/s]
    epoch 3, knowledge graph: 48 batches in 1.99 s
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

import recbole.trainer.trainer
from tqdm import tqdm

from recbole_tinykg.compat import replaced


class Progress(tqdm):
    """An iterator over batches that shows how far it is.

    Attributes:
        on_terminal: Whether standard error is a terminal to draw on.
    """

    def __init__(self, batches: Iterable[Any], doing: str, total: int | None = None) -> None:
        """Draw an empty bar, if there is a terminal.

        Args:
            batches: What to iterate over.
            doing: What the pass is called, such as `epoch 3, validation`.
            total: Number of batches; None: unknown.
        """
        self._doing = doing
        self.on_terminal = sys.stderr.isatty()
        super().__init__(
            batches,
            desc=doing,
            total=total,
            unit=" batches",
            dynamic_ncols=True,
            disable=not self.on_terminal,
        )

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; log a line at the end if nothing was drawn."""
        start, number = perf_counter(), 0
        for batch in super().__iter__():
            yield batch
            number += 1
        if not self.on_terminal:
            seconds = perf_counter() - start
            batches = f"{number} batch{'es' * (number != 1)}"
            logging.getLogger().info(f"{self._doing}: {batches} in {seconds:.2f} s")


def shown_as(doing: str) -> AbstractContextManager[None]:
    """Make the progress bars of RecBole's loops a `Progress` of this name in a `with` block."""
    return replaced(
        recbole.trainer.trainer,
        tqdm=lambda batches, total=None, **_: Progress(batches, doing, total),
    )
