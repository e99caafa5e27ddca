"""Training of a stock model in `compressed_saves`, for `--compressed_saves=true`.

Nothing of the model is touched: what RecBole's trainer calls for a loss is called in the block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.saved_tensors import compressed_saves


class CompressedLoss:
    """Runs loss functions of a model in `compressed_saves`, with a stream of noise of its own."""

    def __init__(self, config: Any, model: nn.Module, device: torch.device) -> None:
        """Take bits, rounding and seed from the configuration."""
        self._model = model
        self._bits, self._rounding = config["compress_bits"], config["compress_rounding"]
        self._streams = NoiseStreams(config["compress_seed"], 1).to(device)

    @classmethod
    def of(cls, config: Any, model: nn.Module, device: torch.device) -> CompressedLoss | None:
        """The object that `compressed_saves: True` in a configuration asks for."""
        return cls(config, model, device) if config["compressed_saves"] else None

    def wrap(self, loss_func: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The loss function in the block, under its name."""

        @functools.wraps(loss_func)
        def compressed(interaction: Any) -> Any:
            with compressed_saves(
                self._model,
                self._bits,
                rounding=self._rounding,
                streams=self._streams,
                resident=interaction.interaction.values(),
            ):
                return loss_func(interaction)

        return compressed

    @contextmanager
    def compression(self, bits: int) -> Iterator[None]:
        """Keep activations at `bits` in a `with` block; no noise is used up."""
        previous, step = self._bits, self.step
        self._bits = bits
        try:
            yield
        finally:
            self._bits, self.step = previous, step

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self._streams.step

    @step.setter
    def step(self, value: int) -> None:
        self._streams.step = value
