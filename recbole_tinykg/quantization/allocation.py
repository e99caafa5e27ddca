r"""Bits for each stored map, so that all together fit a budget and the gradient is least noisy.

Map m stored at b bits costs :math:`c_m(b)` bytes and adds :math:`V_m(b)` to the variance of the
gradient; the noises of different maps are independent, so both add up. Minimising
:math:`\sum_m V_m(b_m)` under :math:`\sum_m c_m(b_m) \le C` is a multiple-choice knapsack. It is
solved exactly: maps are added one by one, and a way to spend some bytes is kept only if no other
way is at least as good in both bytes and variance. A way that is beaten stays beaten whatever is
added to it, so the best one is never dropped (Nemhauser & Ullmann, Management Science 1969). A
greedy choice by variance per byte is faster and can miss it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Option(NamedTuple):
    """One way to store a map."""

    num_bytes: int
    variance: float


class _Front(NamedTuple):
    """Ways that are not beaten, with bytes ascending and variance descending."""

    num_bytes: np.ndarray  # (F,) int64
    variance: np.ndarray  # (F,) float64
    way: np.ndarray  # (F,) int64, way among those before the last map
    option: np.ndarray  # (F,) int64, option of the last map


def fewest_bytes(maps: Sequence[Sequence[Option]]) -> int:
    """Return the bytes of all maps, each at its smallest option."""
    return sum(min(option.num_bytes for option in options) for options in maps)


def choose_options(maps: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """Choose an option for each map: the least total variance within a number of bytes.

    Args:
        maps: Options of each map, at least one each.
        budget: Bytes for all maps together.

    Returns:
        Number of the option of each map; None if even the smallest do not fit.
    """
    remaining = fewest_bytes(maps)
    if remaining > budget:
        return None
    fronts = [_Front(*(np.zeros(1, dtype) for dtype in (np.int64, np.float64, np.int64, np.int64)))]
    for options in maps:
        remaining -= min(option.num_bytes for option in options)
        fronts.append(_extend(fronts[-1], options, budget - remaining))
    way, chosen = len(fronts[-1].way) - 1, []  # the last way has the least variance
    for front in reversed(fronts[1:]):
        chosen.append(int(front.option[way]))
        way = int(front.way[way])
    return chosen[::-1]


def _extend(front: _Front, options: Sequence[Option], most_bytes: int) -> _Front:
    """Return the unbeaten ways with one more map that leave enough bytes for the maps to come."""
    costs = np.array([option.num_bytes for option in options], np.int64)
    variances = np.array([option.variance for option in options], np.float64)
    num_bytes = (front.num_bytes[:, None] + costs).ravel()
    variance = (front.variance[:, None] + variances).ravel()
    way, option = np.divmod(np.arange(len(num_bytes)), len(options))
    order = np.lexsort((variance, num_bytes))
    order = order[num_bytes[order] <= most_bytes]
    least = np.minimum.accumulate(variance[order])
    unbeaten = np.ones(len(order), bool)
    unbeaten[1:] = least[1:] < least[:-1]
    order = order[unbeaten]
    return _Front(num_bytes[order], variance[order], way[order], option[order])
