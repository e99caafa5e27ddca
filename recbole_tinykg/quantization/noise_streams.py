"""The noise streams of a training step: positions in one counter-based random stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class NoiseStreams(nn.Module):
    """Positions (seed, step, site) in the counter-based random stream of a model.

    Every place that draws noise in a step is a site (`sites` names them); a step has room for
    2**16. The step is a tensor on the model's device, so no call waits for it, and a position is
    data: drawing again at the same position gives the same noise.

    Args:
        seed: Seed of the stream, any 64-bit integer.
        num_sites: Sites of one step.
    """

    SITE_BITS = 16
    sites: Tensor  # (num_sites, 2) int64: seed and site
    position: Tensor  # (2,) int64: 0 and step * 2**SITE_BITS

    def __init__(self, seed: int, num_sites: int) -> None:
        super().__init__()
        sites = torch.stack([torch.full((num_sites,), seed), torch.arange(num_sites)], dim=1)
        self.register_buffer("sites", sites, persistent=False)
        self.register_buffer("position", torch.zeros(2, dtype=torch.int64), persistent=False)

    def current(self) -> Tensor:
        """Return the streams (num_sites, 2) int64 of the current step."""
        return self.sites + self.position

    def advance(self) -> Tensor:
        """Go to the next step and return its streams."""
        self.position[1].add_(1 << self.SITE_BITS)
        return self.current()

    @contextmanager
    def redrawn(self, site: int) -> Iterator[None]:
        """Let one site draw noise that no step has, in a `with` block; other sites keep theirs."""
        sites = self.sites
        self.sites = sites.clone()
        self.sites[site, 1] += 1 << (self.SITE_BITS - 1)
        try:
            yield
        finally:
            self.sites = sites

    @property
    def step(self) -> int:
        """Number of steps taken; reading it waits for the device."""
        return int(self.position[1]) >> self.SITE_BITS

    @step.setter
    def step(self, value: int) -> None:
        self.position[1].fill_(value << self.SITE_BITS)
