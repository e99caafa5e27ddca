"""What a search may try: for every parameter the values it can take.

    choice       one of a list
    integer      a whole number from low to high, both included
    uniform      a number from low to high
    loguniform   a number from low to high whose logarithm is uniform
    quniform     a multiple of step from low to high; whole numbers if the step is a whole number

Numbers are drawn to four digits, so that what the tables show is what was trained. Nothing here
imports Ray or Optuna: an Optuna trial is asked by the names of its own methods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recbole_tinykg.model.checks import is_number

_DIGITS = 4


class Domain(Protocol):
    """The values of one parameter."""

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values in order; None if there are infinitely many."""

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw a value."""

    def suggest(self, name: str, trial: Any) -> Any:
        """Ask an Optuna trial for a value."""

    def encode(self, value: Any) -> Any:
        """Return what an Optuna trial calls a value; None if the domain does not have it."""


@dataclass(frozen=True)
class Choice:
    """One of several values: scalars, texts, lists."""

    values: tuple[Any, ...]

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw a value, each equally likely."""
        return self.values[int(rng.integers(len(self.values)))]

    def suggest(self, name: str, trial: Any) -> Any:
        """Ask for the text of a value: Optuna's categories are scalars."""
        texts = [repr(value) for value in self.values]
        return self.values[texts.index(trial.suggest_categorical(name, texts))]

    def encode(self, value: Any) -> str | None:
        """Return the text of the value that equals this one."""
        return next((repr(v) for v in self.values if _equal(v, value)), None)


@dataclass(frozen=True)
class Steps:
    """Multiples of `step`, from `first` times to `last` times, both included."""

    first: int
    last: int
    step: float = 1

    @property
    def values(self) -> tuple[float, ...]:
        """All multiples; integers if the step is a whole number."""
        return tuple(self._multiple(k) for k in range(self.first, self.last + 1))

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a multiple, each equally likely."""
        return self._multiple(int(rng.integers(self.first, self.last + 1)))

    def suggest(self, name: str, trial: Any) -> float:
        """Ask for the number of steps."""
        return self._multiple(trial.suggest_int(name, self.first, self.last))

    def encode(self, value: Any) -> int | None:
        """Return the number of steps to a value."""
        if not is_number(value):
            return None
        k = round(value / self.step)
        inside = self.first <= k <= self.last and math.isclose(self._multiple(k), value)
        return k if inside else None

    def _multiple(self, k: int) -> float:
        value = k * self.step
        return int(value) if float(self.step).is_integer() else float(f"{value:.12g}")


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, uniform itself or (`log`) in its logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def values(self) -> None:
        """None: there are infinitely many."""
        return None

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a number of four digits."""
        if self.log:
            return self._rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self._rounded(rng.uniform(self.low, self.high))

    def suggest(self, name: str, trial: Any) -> float:
        """Ask for a number."""
        return self._rounded(trial.suggest_float(name, self.low, self.high, log=self.log))

    def encode(self, value: Any) -> float | None:
        """Return the number itself if it is in the range."""
        return value if is_number(value) and self.low <= value <= self.high else None

    def _rounded(self, value: float) -> float:
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


Space = Mapping[str, Domain]
"""Domains by the names of their parameters."""


def distinct_samples(
    space: Space, count: int, seed: int, first: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Draw parameters that differ from one another.

    Args:
        space: Where to draw.
        count: How many; fewer come back if the space has fewer (or nearly so).
        seed: Of the draws.
        first: Begins the list, inside the space or not.

    Returns:
        At most `count` sets of parameters.
    """
    rng = np.random.default_rng(seed)
    samples = [] if first is None else [dict(first)]
    misses = 0
    while len(samples) < count and misses < 100 * count:
        sample = {name: domain.sample(rng) for name, domain in space.items()}
        if sample in samples:
            misses += 1
        else:
            samples.append(sample)
    return samples


def grid(space: Space, first: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yield `first` and then every other combination of values; the space must be finite."""
    if first is not None:
        yield dict(first)
    for values in itertools.product(*(domain.values or () for domain in space.values())):
        point = dict(zip(space, values, strict=True))
        if point != first:
            yield point


def encode(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an Optuna trial calls the parameters, without those outside their domain."""
    codes = {name: domain.encode(parameters[name]) for name, domain in space.items()}
    return {name: code for name, code in codes.items() if code is not None}


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and a == b
