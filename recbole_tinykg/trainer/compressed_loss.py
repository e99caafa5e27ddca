"""Trains a stock model in `compressed_saves`, for `--compressed_saves=true`.

The model stays as it is: only the loss function that RecBole's trainer calls is wrapped.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import nn

from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.quantization import NoiseStreams
from recbole_tinykg.saved_tensors import Recording, compressed_saves


class CompressedLoss:
    """Runs loss functions of a model in `compressed_saves`, with a stream of noise of its own."""

    def __init__(self, config: Config, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._bits, self._rounding = config["compress_bits"], config["compress_rounding"]
        self._streams = NoiseStreams(config["compress_seed"], 1).to(device)

    def wrap(self, loss_func: LossFunction) -> LossFunction:
        """Return a loss function of the same name that computes in `compressed_saves`."""
        recording = Recording()

        @functools.wraps(loss_func)
        def compressed(interaction: Interaction) -> Any:
            with compressed_saves(
                self._model,
                self._bits,
                rounding=self._rounding,
                streams=self._streams,
                resident=interaction.interaction.values(),
                recording=recording,
            ):
                return loss_func(interaction)

        return compressed

    @contextmanager
    def compression(self, bits: int) -> Iterator[None]:
        """Store activations at `bits` in a `with` block; the noise afterwards is the same."""
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
