"""What a graph layer saves for backward: codes of ego embeddings and messages, and sign masks.

`LayerSaver` takes them block by block while the layer computes, so no map of all messages exists.
`SavedLayer` is the result; it becomes the flat tensors of `save_for_backward` and is rebuilt from
them. The first layer's ego embeddings are parameters and saved by reference; if backward needs only
the sum of ego and message (`gcn`), codes of the sum are all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_tinykg.functional.kgat.aggregators import Aggregator, Inputs, Masks, add_messages
from recbole_tinykg.functional.kgat.targets import Targets
from recbole_tinykg.graph.row_blocks import RowBlock
from recbole_tinykg.quantization import Quantized, Site, StepSites
from recbole_tinykg.quantization.quantizer import Layout


@dataclass
class SavedLayer:
    """What a layer saves.

    Attributes:
        e: codes of the ego embeddings, or of e + s; None: they are parameters.
        s: codes of the messages; None: they are in `e`.
        masks: signs inside the activations.
    """

    e: Quantized | None = None
    s: Quantized | None = None
    masks: Masks = ()

    def tensors(self) -> list[Tensor]:
        """Return all of it as a flat list."""
        codes = [code for code in (self.e, self.s) if code is not None]
        return [*(tensor for code in codes for tensor in code.tensors()), *self.masks]

    def layouts(self) -> tuple[Layout | None, Layout | None]:
        """Return what `restore` needs besides the tensors."""
        e, s = self.e, self.s
        return None if e is None else e.layout, None if s is None else s.layout

    @classmethod
    def restore(
        cls,
        tensors: Iterator[Tensor],
        layouts: tuple[Layout | None, Layout | None],
        num_masks: int,
    ) -> SavedLayer:
        """Rebuild from the next of a row of tensors: those that `tensors()` gave."""
        e, s = (
            None if layout is None else Quantized.unflatten(tensors, layout) for layout in layouts
        )
        return cls(e, s, tuple(next(tensors) for _ in range(num_masks)))


class LayerSaver:
    """Collects what a layer saves, block by block.

    Args:
        sites: Those of the layer: `sum` or `input`, and `messages`.
        aggregator: Its arithmetic, which says what backward needs.
        targets: The rows that the layer computes.
        saves_ego: False: the ego embeddings are parameters, saved by reference.
    """

    def __init__(
        self, sites: StepSites, aggregator: type[Aggregator], targets: Targets, saves_ego: bool
    ) -> None:
        self._sites, self._aggregator, self._targets = sites, aggregator, targets
        self._saves_ego = saves_ego
        self._e: Quantized | None = None
        self._s: Quantized | None = None
        self._masks: list[Masks] = []

    def add(self, block: RowBlock, x: Inputs, masks: Masks) -> None:
        """Take the ego rows, messages and masks of a block."""
        self._masks.append(masks)
        num_rows, num_messages = self._targets.num_rows, self._targets.num_messages
        if self._aggregator.saves_sum and self._saves_ego:
            total = add_messages(*x)
            self._e = _write_rows(self._e, num_rows, total, self._sites["sum"], block.start)
            return
        if self._saves_ego:
            self._e = _write_rows(self._e, num_rows, x.e, self._sites["input"], block.start)
        site = self._sites["messages"]
        self._s = _write_rows(self._s, num_messages, x.s, site, block.first_message)

    def finish(self) -> SavedLayer:
        """Return what is saved, once every block has been added."""
        masks = tuple(torch.cat(column) for column in zip(*self._masks, strict=True))
        return SavedLayer(self._e, self._s, masks)


def _write_rows(
    codes: Quantized | None, num_rows: int, x: Tensor, site: Site, start: int
) -> Quantized:
    """Write codes of the rows x (n, D) from `start` on into `codes` (num_rows, D), new if None."""
    codes = codes or site.quantizer.empty(num_rows, x)
    codes.copy_(start, site.quantize(x, first_row=start))
    return codes
