"""Bits per stored map under `compress_budget`, chosen before training and again as it goes on.

At the start of epochs 0, 1, 2, 4, 8, ... the first batches of the epoch are drawn ahead. On them
`quantization.sensitivity` measures how many bytes each map takes and how much noise it adds, and
`quantization.allocation` chooses the bits that make the gradient least noisy within the budget.
Noise changes quickly at first and slowly later, so in the long run the choice costs nothing. The
epoch then trains on the same batches, and the bits are part of every checkpoint.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from recbole.config import Config

from recbole_tinykg.data.upcoming import upcoming_batches
from recbole_tinykg.memory.byte_sizes import read_bytes
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.quantization.budget import Allocation, allocate_bits

MEASURED_BATCHES = 2


def allocate_for(
    model: Any,
    train_data: Any,
    budget: int,
    *,
    loss_func: LossFunction | None = None,
    uses_amp: bool = False,
) -> Allocation:
    """Choose bits by `allocate_bits` on the batches that a loader will give next.

    Args:
        model: A twin, on its device.
        train_data: Loader of training batches, which it will give again.
        budget: Bytes that a step may keep for backward.
        loss_func: The loss to keep accurate; None: the model's `calculate_loss`.
        uses_amp: Whether training computes under autocast, RecBole's `enable_amp`.
    """
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in upcoming_batches(train_data, MEASURED_BATCHES)]
    with torch.autocast(device.type, enabled=uses_amp):
        return allocate_bits(model, loss_func or model.calculate_loss, batches, budget)


class BitBudget:
    """Keeps a twin within `compress_budget` while a trainer trains it.

    Attributes:
        allocations: The bits chosen, by epoch.
    """

    def __init__(self, config: Config, model: Any) -> None:
        self.allocations: dict[int, Allocation] = {}
        self._model, self._uses_amp = model, bool(config["enable_amp"])
        self._num_bytes = read_bytes(config["compress_budget"], "compress_budget")

    def begin_epoch(self, epoch: int, train_data: Any, loss_func: LossFunction) -> None:
        """Choose bits if the epoch is one of 0, 1, 2, 4, 8, ..., on its first batches.

        Raises:
            ConfigurationError: Not even one bit per element fits.
        """
        if epoch & (epoch - 1):  # neither 0 nor a power of two
            return
        allocation = allocate_for(
            self._model, train_data, self._num_bytes, loss_func=loss_func, uses_amp=self._uses_amp
        )
        self._model.choose_bits(allocation.bits)
        self.allocations[epoch] = allocation
        logging.getLogger().info(f"bits of stored maps from epoch {epoch}:\n{allocation.table()}")
