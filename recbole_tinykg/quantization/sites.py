"""The places of a training step that draw noise, by name.

A model names its sites once, in order, and everything else follows from the list: how many noise
streams a step has, which of them a site draws, which maps are stored, and how many bits each has.

    sites = Sites()
    sites.add("layer1.messages")                  # stores codes
    sites.add("layer1.dropout", stored=False)     # only draws noise

    table = sites.table(Quantizer(bits=2))        # a quantizer for each site
    layer = table.at(streams).group("layer1")     # the streams of a step: NoiseStreams.advance()
    codes = layer["messages"].quantize(x)
    ops.dropout(x, layer["dropout"].stream, probability=0.1)

Compressed functions take a `Site`, or a `StepSites` in which they find theirs by name, so bits per
component, layer or node degree are a table over names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg.quantization.quantizer import Quantized, Quantizer


class Site(NamedTuple):
    """A place of a step: how its map is compressed, and the noise that it draws."""

    quantizer: Quantizer
    stream: Tensor  # (2,) int64

    def quantize(self, x: Tensor, *, first_row: int = 0) -> Quantized:  # (N, D)
        """Compress a matrix with the noise of this site; `first_row` as in `ops.quantize`."""
        return self.quantizer.quantize(x, self.stream, first_row=first_row)


class Sites:
    """The sites of a step, in the order of their noise streams.

    Attributes:
        numbers: Number of each site by its name.
        stored: Number of each site that stores codes, by its name.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.stored: dict[str, int] = {}
        self._fewest_bits: list[int] = []

    def add(self, name: str, *, stored: bool = True, fewest_bits: int = 1) -> None:
        """Append a site.

        Args:
            name: Unique; dots separate groups, as in `layer1.messages`.
            stored: Whether the site stores codes. False: it draws dropout or a sample, or holds the
                place of a map that this configuration does not store.
            fewest_bits: Of the map, unless its bits are chosen for it alone.
        """
        assert name not in self.numbers, name
        self.numbers[name] = len(self.numbers)
        self._fewest_bits.append(fewest_bits)
        if stored:
            self.stored[name] = self.numbers[name]

    def __len__(self) -> int:
        return len(self.numbers)

    def table(
        self, quantizer: Quantizer, chosen: Mapping[str, int | Quantizer] | None = None
    ) -> SiteTable:
        """Give every site a quantizer.

        Args:
            quantizer: For all sites alike, except where `fewest_bits` asks for more.
            chosen: Bits, or a quantizer, for each stored map.
        """
        quantizers = [
            quantizer if quantizer.bits >= fewest else replace(quantizer, bits=fewest)
            for fewest in self._fewest_bits
        ]
        for name, choice in (chosen or {}).items():
            own = choice if isinstance(choice, Quantizer) else replace(quantizer, bits=choice)
            quantizers[self.stored[name]] = own
        return SiteTable(self.numbers, tuple(quantizers))


@dataclass(frozen=True)
class SiteTable:
    """A quantizer for each site."""

    numbers: dict[str, int]
    quantizers: tuple[Quantizer, ...]

    def quantizer(self, name: str) -> Quantizer:
        """Return the quantizer of a site."""
        return self.quantizers[self.numbers[name]]

    def at(self, streams: Tensor) -> StepSites:  # (len(numbers), 2) int64
        """Return the sites of the step that has these noise streams."""
        return StepSites(self, streams)


@dataclass(frozen=True)
class StepSites:
    """The sites of one step, or a group of them: those whose names begin with `prefix`.

    An autograd function that draws noise again in backward saves `streams` and finds its sites in
    `table.at(streams)`.
    """

    table: SiteTable
    streams: Tensor  # (num_sites, 2) int64
    prefix: str = ""

    def __getitem__(self, name: str) -> Site:
        number = self.table.numbers[self.prefix + name]
        return Site(self.table.quantizers[number], self.streams[number])

    @property
    def device(self) -> torch.device:
        """Device of the streams, and of the step's data."""
        return self.streams.device

    def group(self, name: str) -> StepSites:
        """Return the sites whose names begin with `name` and a dot, to be asked without both."""
        return StepSites(self.table, self.streams, f"{self.prefix}{name}.")
