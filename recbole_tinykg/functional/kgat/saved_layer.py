"""What a graph layer keeps for backward: codes of its ego embeddings and messages, and sign masks.

`Keeper` takes them block by block while the layer computes, so that no map of all messages exists;
`Kept` is the result, as the flat tensors that `save_for_backward` takes and back again. The first
layer's ego embeddings are parameters, kept by reference; where backward needs only the sum of ego
and message (`gcn`), codes of the sum are all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.kgat.aggregators import Aggregator, Masks, add_messages
from recbole_tinykg.functional.kgat.targets import Targets
from recbole_tinykg.graph.row_blocks import RowBlock
from recbole_tinykg.quantization import Quantized
from recbole_tinykg.quantization.quantizer import Layout, Quantizers


@dataclass
class Kept:
    """What a layer keeps.

    Attributes:
        e: codes of the ego embeddings, or of e + s; None: they are parameters.
        s: codes of the messages; None: they are in `e`.
        masks: signs inside the activations.
    """

    e: Quantized | None = None
    s: Quantized | None = None
    masks: Masks = ()

    def tensors(self) -> list[Tensor]:
        """All of it, flat."""
        codes = [t for kept in (self.e, self.s) if kept is not None for t in kept.tensors()]
        return [*codes, *self.masks]

    def layouts(self) -> tuple[Layout | None, Layout | None]:
        """What `restore` needs beside the tensors."""
        return _layout(self.e), _layout(self.s)

    @classmethod
    def restore(
        cls, tensors: Any, layouts: tuple[Layout | None, Layout | None], num_masks: int
    ) -> Kept:
        """The inverse of `tensors`, from an iterator over them."""
        e, s = (
            None
            if layout is None
            else Quantized.from_tensors(_take(tensors, layout.num_tensors), layout)
            for layout in layouts
        )
        return cls(e, s, _take(tensors, num_masks))


class Keeper:
    """Collects what a layer keeps, block by block, so that no map of its messages exists."""

    def __init__(
        self,
        quantizer: Quantizers,  # of e at site 0, of s at site 1
        aggregator: type[Aggregator],
        targets: Targets,
        streams: Tensor,  # (2 or more, 2): the noise of e and of s first
        keeps_ego: bool,
    ) -> None:
        """`keeps_ego`: the ego embeddings are no parameters, which are kept by reference."""
        self._quantizer, self._aggregator = quantizer, aggregator
        self._targets, self._streams = targets, streams
        self._keeps_ego = keeps_ego
        self._e: Quantized | None = None
        self._s: Quantized | None = None
        self._masks: list[Masks] = []

    def add(
        self, block: RowBlock, e: Tensor, s: Tensor, index: Tensor | None, masks: Masks
    ) -> None:
        """Take the ego rows (n, D), messages (k, D) and masks of a block."""
        self._masks.append(masks)
        num_rows, num_messages = self._targets.num_rows, self._targets.num_messages
        if self._aggregator.keeps_sum and self._keeps_ego:
            total = add_messages(e, s, index)
            self._e = self._put(self._e, num_rows, total, 0, block.start)
            return
        if self._keeps_ego:
            self._e = self._put(self._e, num_rows, e, 0, block.start)
        self._s = self._put(self._s, num_messages, s, 1, block.first_message)

    def _put(
        self, codes: Quantized | None, num_rows: int, x: Tensor, site: int, start: int
    ) -> Quantized:
        """Codes (num_rows, D), new if None, with those of the rows x (n, D) at `start`."""
        quantizer = self._quantizer.at(site)
        codes = codes or quantizer.empty(num_rows, x)
        codes.copy_(start, quantizer.quantize(x, self._streams[site], first_row=start))
        return codes

    def kept(self) -> Kept:
        """All of it, once every block has come."""
        masks = tuple(torch.cat(column) for column in zip(*self._masks, strict=True))
        return Kept(self._e, self._s, masks)


def _layout(kept: Quantized | None) -> Layout | None:
    return None if kept is None else kept.layout


def _take(tensors: Any, count: int) -> tuple[Tensor, ...]:
    return tuple(next(tensors) for _ in range(count))
