"""Bits per stored map under ``compress_budget``, chosen before training and again as it goes on.

At the start of epochs 0, 1, 2, 4, 8, ... the first batches of the epoch are drawn ahead, what each
map costs and how much noise it adds is measured on them (`sensitivity`), and the bits are chosen
that make the gradient least noisy within the budget (`allocation`). Noise changes quickly at first
and slowly later, so in the long run the choice costs nothing. The batches come again in the epoch,
and the bits are part of every checkpoint.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from recbole.utils import KGDataLoaderState
from tabulate import tabulate
from torch import Tensor

from recbole_tinykg import random_state
from recbole_tinykg.allocation import WIDTHS, choose_options, fewest_bytes
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import is_tiny
from recbole_tinykg.sensitivity import Sensitivity, measure_sensitivity
from recbole_tinykg.sizes import format_bytes, read_bytes

MEASURED_BATCHES = 2

_WITH_INTERACTIONS = (KGDataLoaderState.RS, KGDataLoaderState.RSKG)

_ALIGN = ("left", *["right"] * 4)

LossFunction = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Allocation:
    """Bits chosen for the stored maps of a twin.

    Attributes:
        budget: Bytes that a step may keep.
        sensitivity: What the choice is based on.
        bits: Bits of each map by its name.
    """

    budget: int
    sensitivity: Sensitivity
    bits: dict[str, int]

    @property
    def saved_bytes(self) -> int:
        """Bytes that a step of the largest measured batch keeps."""
        return self.sensitivity.saved_bytes(self.bits)

    @property
    def relative_variance(self) -> float:
        """Predicted variance of the gradient over its squared norm."""
        return self.sensitivity.relative_variance(self.bits)

    @property
    def uniform_bits(self) -> int | None:
        """The most bits that would fit for all maps alike."""
        fitting = [bits for bits in WIDTHS if self._uniform_bytes(bits) <= self.budget]
        return max(fitting, default=None)

    def _uniform_bytes(self, bits: int) -> int:
        return self.sensitivity.saved_bytes(dict.fromkeys(self.bits, bits))

    def _uniform_row(self, bits: int) -> list[str]:
        noise = self.sensitivity.relative_variance(dict.fromkeys(self.bits, bits))
        size = format_bytes(self._uniform_bytes(bits))
        return ["all maps alike", "", str(bits), size, f"{noise:.1e}"]

    def table(self) -> str:
        """A line per map with its share of both, and what all maps make together."""
        options = self.sensitivity.chosen(self.bits)
        rows = [
            [
                own.name,
                "{:,} x {}".format(*own.shape),
                str(self.bits[own.name]),
                format_bytes(option.num_bytes),
                f"{self.sensitivity.relative(option.variance):.1e}",
            ]
            for own, option in zip(self.sensitivity.maps, options, strict=True)
        ]
        fixed, total = format_bytes(self.sensitivity.fixed_bytes), format_bytes(self.saved_bytes)
        rows.append(["masks, indices, ...", "", "", fixed, ""])
        rows.append(
            [f"of {format_bytes(self.budget)}", "", "", total, f"{self.relative_variance:.1e}"]
        )
        if self.uniform_bits is not None:
            rows.append(self._uniform_row(self.uniform_bits))
        headers = ("stored map", "shape", "bits", "bytes", "noise")
        return tabulate(rows, headers, "simple", disable_numparse=True, colalign=_ALIGN)


def allocate_bits(
    model: Any, loss_func: LossFunction, batches: list[Any], budget: int
) -> Allocation:
    """Chooses bits for a twin's stored maps; does not apply them.

    Args:
        model: A twin, on its device.
        loss_func: Its loss of a batch.
        batches: At least one, on the model's device.
        budget: Bytes that a step may keep for backward.

    Raises:
        ConfigurationError: Not even one bit per element fits.
    """
    sensitivity = measure_sensitivity(model, loss_func, batches, budget)
    maps = [own.options for own in sensitivity.maps]
    widths = choose_options(maps, budget - sensitivity.fixed_bytes)
    if widths is None:
        smallest = sensitivity.fixed_bytes + fewest_bytes(maps)
        raise ConfigurationError(
            f"compress_budget must be at least {smallest} bytes ({format_bytes(smallest)}) for "
            f"this model, data set and train_batch_size, what a step keeps at 1 bit; got {budget} "
            f"bytes ({format_bytes(budget)})"
        )
    names = [own.name for own in sensitivity.maps]
    return Allocation(
        budget, sensitivity, dict(zip(names, (WIDTHS[i] for i in widths), strict=True))
    )


def allocate_for(
    model: Any,
    train_data: Any,
    budget: int,
    *,
    loss_func: LossFunction | None = None,
    uses_amp: bool = False,
) -> Allocation:
    """Chooses bits on the batches that a loader will give next, as ``allocate_bits``.

    Args:
        model: A twin, on its device.
        train_data: Loader of training batches; nothing of it is used up.
        budget: Bytes that a step may keep for backward.
        loss_func: None: the model's ``calculate_loss``.
        uses_amp: Whether training computes under autocast, RecBole's ``enable_amp``.
    """
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in upcoming_batches(train_data, MEASURED_BATCHES)]
    with torch.autocast(device.type, enabled=uses_amp):
        return allocate_bits(model, loss_func or model.calculate_loss, batches, budget)


class BitBudget:
    """Keeps a twin within ``compress_budget`` while a trainer trains it.

    Attributes:
        allocations: What was chosen, by epoch.
    """

    def __init__(self, model: Any, num_bytes: int, *, uses_amp: bool = False) -> None:
        """Chooses nothing yet."""
        self.allocations: dict[int, Allocation] = {}
        self._model, self._num_bytes, self._uses_amp = model, num_bytes, uses_amp

    @classmethod
    def of(cls, config: Any, model: Any) -> BitBudget | None:
        """The object that ``compress_budget`` asks for; None without it."""
        budget = config["compress_budget"] if is_tiny(type(model)) else None
        if budget is None:
            return None
        uses_amp = bool(config["enable_amp"])
        return cls(model, read_bytes(budget, "compress_budget"), uses_amp=uses_amp)

    def begin_epoch(self, epoch: int, train_data: Any, loss_func: LossFunction) -> None:
        """Chooses bits if it is time to, on the batches that the epoch will begin with.

        Raises:
            ConfigurationError: Not even one bit per element fits.
        """
        if epoch & (epoch - 1):  # not 0, 1, 2, 4, 8, ...
            return
        allocation = allocate_for(
            self._model, train_data, self._num_bytes, loss_func=loss_func, uses_amp=self._uses_amp
        )
        self._model.choose_bits(allocation.bits)
        self.allocations[epoch] = allocation
        logging.getLogger().info(f"bits of stored maps from epoch {epoch}:\n{allocation.table()}")


def upcoming_batches(loader: Any, count: int) -> list[Any]:
    """The batches with interactions that a loader will give next.

    It gives them again: neither its state nor any random number is used up.
    """
    state = getattr(loader, "state", None)
    other_state = hasattr(loader, "set_mode") and state not in _WITH_INTERACTIONS
    generators = random_state.generators(train=loader)
    states = {name: generator.get_state() for name, generator in generators.items()}
    try:
        if other_state:
            loader.set_mode(KGDataLoaderState.RS)
        with random_state.preserved():
            return list(itertools.islice(loader, count))
    finally:
        for name, generator in generators.items():
            generator.set_state(states[name])
        if other_state:
            loader.state = state
