"""Bits per stored map that fit a number of bytes and make the gradient least noisy.

The cost of each map and the noise that it adds are measured on a few batches (`sensitivity`);
choosing the bits is a knapsack problem (`allocation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.memory.byte_sizes import format_bytes
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.quantization.allocation import choose_options, fewest_bytes
from recbole_tinykg.quantization.quantizer import BITS
from recbole_tinykg.quantization.sensitivity import Sensitivity, measure_sensitivity

_ALIGN = ("left", *["right"] * 4)


@dataclass(frozen=True)
class Allocation:
    """Bits chosen for the stored maps of a twin.

    Attributes:
        budget: Bytes that a step may keep.
        sensitivity: Measurements that the choice is based on.
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
        """The most bits that fit if all maps have the same; None if 1 bit does not fit."""
        fitting = [bits for bits in BITS if self._uniform_bytes(bits) <= self.budget]
        return max(fitting, default=None)

    def _uniform_bytes(self, bits: int) -> int:
        return self.sensitivity.saved_bytes(dict.fromkeys(self.bits, bits))

    def table(self) -> str:
        """Return a line per map with its bytes and noise, then a line for all maps together."""
        options = self.sensitivity.options(self.bits)
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
        if (bits := self.uniform_bits) is not None:
            noise = self.sensitivity.relative_variance(dict.fromkeys(self.bits, bits))
            size = format_bytes(self._uniform_bytes(bits))
            rows.append(["all maps alike", "", str(bits), size, f"{noise:.1e}"])
        headers = ("stored map", "shape", "bits", "bytes", "noise")
        return tabulate(rows, headers, "simple", disable_numparse=True, colalign=_ALIGN)


def allocate_bits(
    model: Any, loss_func: LossFunction, batches: list[Any], budget: int
) -> Allocation:
    """Choose bits for a twin's stored maps, without applying them.

    Args:
        model: A twin, on its device.
        loss_func: Its loss of a batch.
        batches: At least one, on the model's device.
        budget: Bytes that a step may keep for backward.

    Raises:
        ConfigurationError: Even one bit per element does not fit.
    """
    sensitivity = measure_sensitivity(model, loss_func, batches, budget)
    maps = [own.options for own in sensitivity.maps]
    chosen = choose_options(maps, budget - sensitivity.fixed_bytes)
    if chosen is None:
        smallest = sensitivity.fixed_bytes + fewest_bytes(maps)
        raise ConfigurationError(
            f"compress_budget must be at least {smallest} bytes ({format_bytes(smallest)}) for "
            f"this model, data set and train_batch_size, what a step keeps at 1 bit; got {budget} "
            f"bytes ({format_bytes(budget)})"
        )
    names = [own.name for own in sensitivity.maps]
    return Allocation(budget, sensitivity, dict(zip(names, (BITS[i] for i in chosen), strict=True)))
