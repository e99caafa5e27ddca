"""What a search optimises: the validation metric, memory and time.

`valid`    the configuration's `valid_metric` on validation, at the best epoch so far
`saved`    bytes that autograd keeps between forward and backward of a training step
`peak`     most bytes that a training step allocates
`seconds`  median seconds of a training epoch

A trial is on the Pareto front if no other trial is at least as good in every objective and better
in one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

OBJECTIVES = ("valid", "saved", "peak", "seconds")


def modes(objectives: Sequence[str], valid_metric_bigger: bool) -> list[str]:
    """Return `max` or `min` for every objective."""
    return ["max" if name == "valid" and valid_metric_bigger else "min" for name in objectives]


def losses(
    values: Mapping[str, float | None], objectives: Sequence[str], valid_metric_bigger: bool
) -> tuple[float, ...] | None:
    """Return objectives as numbers to be made small; None if one is missing or NaN."""
    found = []
    for name, mode in zip(objectives, modes(objectives, valid_metric_bigger), strict=True):
        value = values.get(name)
        if value is None or math.isnan(value):
            return None
        found.append(-value if mode == "max" else value)
    return tuple(found)


def pareto_front(points: Sequence[tuple[float, ...] | None]) -> list[int]:
    """Return the places of the points that no other point dominates.

    Args:
        points: Objectives of each trial, all to be made small; None has no place on the front.

    Returns:
        Places in `points`, by the first objective; equal points are all on the front.
    """
    known = [(point, place) for place, point in enumerate(points) if point is not None]
    front = [
        (point, place)
        for point, place in known
        if not any(_dominates(other, point) for other, _ in known)
    ]
    return [place for _, place in sorted(front)]


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
