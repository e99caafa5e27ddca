r"""What each stored map costs, and how much noise it adds to the gradient, measured on real steps.

A twin's gradient is linear in the noise :math:`\delta_m` of each map's codes, so that the map adds

.. math:: V_m(b) = E\|J_m \delta_m\|^2 = \sum_i \sigma_i^2(b) \|\partial g / \partial x_i\|^2,
          \qquad \sigma_i \propto \frac{\mathrm{range}_i}{2^b - 1}

to the gradient's variance: range² times gradient². The Jacobian of a map of millions of elements
is never formed, because quantization noise is itself a random probe: a step is taken twice, with
different noise in map m and the same noise everywhere else. The squared distance of the two
gradients has the expectation :math:`V_m(b) + V_m(b')`. It is measured at 1 and at 2 bits, because
so few bits do not fill a range evenly; from 2 bits on the variance falls with :math:`(2^b - 1)^2`.

No step keeps more bytes than the user can afford, dropout stays the same, and squares are summed on
the device and read once. Measuring leaves no trace: weights, gradients, random state and the noise
of the training are untouched, as the noise comes from steps that no training reaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.memory.meter import saved_tensors
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.quantization.allocation import Option
from recbole_tinykg.quantization.quantizer import BITS, Quantized, Quantizer, stream

_FIRST_STEP = 1 << 40  # of the noise; training does not get there
_MEASURED = (1, 2)  # bits
_PIECE = 1 << 16  # elements whose squares are summed at a time


@dataclass(frozen=True)
class StoredMap:
    """A map that a step stores as codes, as measured."""

    name: str
    shape: tuple[int, int]  # rows in the largest batch, columns
    options: tuple[Option, ...]  # for each of `quantizer.BITS`


@dataclass(frozen=True)
class Sensitivity:
    """Bytes of the largest batch, and mean squares over the batches, as measured."""

    maps: tuple[StoredMap, ...]
    fixed_bytes: int  # kept besides codes: masks, indices, factors
    gradient_square: float  # squared norm of the gradient of all parameters

    def options(self, bits: Mapping[str, int]) -> list[Option]:
        """Return the option that each map has at the bits given for its name."""
        return [own.options[BITS.index(bits[own.name])] for own in self.maps]

    def saved_bytes(self, bits: Mapping[str, int]) -> int:
        """Return the bytes that a step keeps with these bits."""
        return self.fixed_bytes + sum(option.num_bytes for option in self.options(bits))

    def relative_variance(self, bits: Mapping[str, int]) -> float:
        """Return the variance of the gradient with these bits, over its squared norm."""
        return self.relative(sum(option.variance for option in self.options(bits)))

    def relative(self, variance: float) -> float:
        """Return a variance over the gradient's squared norm; infinite if the gradient is 0."""
        if variance == 0:
            return 0.0
        return variance / self.gradient_square if self.gradient_square else math.inf


def measure_sensitivity(
    model: Any, loss_func: LossFunction, batches: Sequence[Any], budget: int
) -> Sensitivity:
    """Measure every stored map of a twin.

    Args:
        model: A twin, on its device.
        loss_func: Its loss of a batch, such as `model.calculate_loss`.
        batches: At least one, on the model's device.
        budget: Bytes that a step may keep. Maps other than the measured one all have the same bits,
            the most that fit.
    """
    was_training = model.training
    model.train()
    try:
        base = _most_bits(_Steps(model, loss_func, batches[0]), budget)
        measured = [
            _Steps(model, loss_func, batch, base, _FIRST_STEP + number).measure()
            for number, batch in enumerate(batches)
        ]
    finally:
        model.train(was_training)
    squares = torch.stack([batch.squares for batch in measured]).mean(0)
    gradient_square, *distances = squares.tolist()
    maps = []
    for i, name in enumerate(model.map_sites):
        seen = max((batch.seen[i] for batch in measured), key=lambda seen: seen.rows)
        variances = _variances(distances[2 * i], distances[2 * i + 1], base.bits)
        options = map(Option, seen.num_bytes(), variances)
        maps.append(StoredMap(name, (seen.rows, seen.columns), tuple(options)))
    return Sensitivity(tuple(maps), max(batch.fixed_bytes for batch in measured), gradient_square)


@dataclass
class _Seen:
    """Shape and type of a map as its quantizer saw it, in one piece or in several."""

    rows: int = 0
    columns: int = 0
    dtype: torch.dtype | None = None

    def num_bytes(self) -> list[int]:
        """Return the bytes of the map at each of `BITS`; 0 if no step has it."""
        if self.dtype is None:
            return [0] * len(BITS)
        row, noise = torch.zeros(1, self.columns, dtype=self.dtype), stream(0, 0)
        return [self.rows * Quantizer(bits).quantize(row, noise).nbytes for bits in BITS]


@dataclass(frozen=True)
class _Recorder(Quantizer):
    """A quantizer that records what it is given."""

    seen: _Seen = field(default_factory=_Seen, compare=False)

    def quantize(self, x: Tensor, stream: Tensor, *, first_row: int = 0) -> Quantized:
        self.seen.rows += len(x)
        self.seen.columns, self.seen.dtype = x.shape[1], x.dtype
        return super().quantize(x, stream, first_row=first_row)


@dataclass(frozen=True)
class _Measured:
    """Results of the steps of one batch."""

    squares: Tensor  # (1 + 2 M,) of the gradient; of the distances at 1 and 2 bits, map by map
    seen: list[_Seen]
    fixed_bytes: int


@dataclass(frozen=True)
class _Steps:
    """Steps with one batch, all at the same step of the noise."""

    model: Any
    loss_func: LossFunction
    batch: Any
    base: Quantizer = Quantizer(bits=1)
    step: int = _FIRST_STEP

    def forward(self, *, keep: bool) -> tuple[Tensor, list[_Seen], int]:
        """Return the loss, the maps, and the bytes kept besides codes; `keep`: allow backward."""
        seen = {name: _Seen() for name in self.model.map_sites}
        recorders = {name: _Recorder(self.base.bits, seen=own) for name, own in seen.items()}
        hooks = saved_tensors(self.model, self.batch, keep=keep)
        with self._compression(recorders), hooks as saved:
            loss = self.loss_func(self.batch)
        maps, option = list(seen.values()), BITS.index(self.base.bits)
        return loss, maps, saved.num_bytes - sum(own.num_bytes()[option] for own in maps)

    def measure(self) -> _Measured:
        """Take one step, and two more per map."""
        loss, seen, fixed_bytes = self.forward(keep=True)
        base = self._gradients(loss)
        squares = [_square(base)]
        for name, site in self.model.map_sites.items():
            for bits in _MEASURED:
                with self._compression({name: Quantizer(bits)}), self.model.streams.redrawn(site):
                    other = self._gradients(self.loss_func(self.batch))
                squares.append(_square([a.sub_(b) for a, b in zip(other, base, strict=True)]))
                del other  # else it would still be alive during the next step
        return _Measured(torch.stack(squares), seen, fixed_bytes)

    @contextmanager
    def _compression(self, quantizers: Mapping[str, Quantizer]) -> Iterator[None]:
        """Compress the named maps as given, all others as `base`, with the noise of `step`."""
        base = dict.fromkeys(self.model.map_sites, self.base)
        with self.model.compression({**base, **quantizers}):
            self.model.streams.step = self.step
            yield

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        return [gradient for gradient in gradients if gradient is not None]


def _most_bits(steps: _Steps, budget: int) -> Quantizer:
    """Return the most bits, the same for all maps, that fit the budget: at least 1, at most 8."""
    _, seen, fixed_bytes = steps.forward(keep=False)
    totals = [fixed_bytes + sum(own.num_bytes()[i] for own in seen) for i in range(len(BITS))]
    fitting = [bits for bits, total in zip(BITS, totals, strict=True) if total <= budget]
    return Quantizer(min(max(fitting, default=1), 8))


def _square(tensors: list[Tensor]) -> Tensor:
    """Return the squared norm of all together, a scalar; in pieces, so none is copied whole."""
    pieces = (piece for tensor in tensors for piece in tensor.reshape(-1).split(_PIECE))
    return torch.stack([piece.double().square().sum() for piece in pieces]).sum()


def _variances(at_1: float, at_2: float, base_bits: int) -> list[float]:
    """Return the variance at each of `BITS`, from two squared distances to a base gradient."""
    ratio = {bits: (3 / (2**bits - 1)) ** 2 for bits in BITS[1:-1]}  # to that at 2 bits
    if base_bits == 1:  # the noise of the base would hide that at 2 bits
        first = at_1 / 2
        second = first / 9
    else:
        second = at_2 / (1 + ratio[base_bits])
        first = max(at_1 - second * ratio[base_bits], second)
    return [first, *(second * ratio[bits] for bits in BITS[1:-1]), 0.0]
