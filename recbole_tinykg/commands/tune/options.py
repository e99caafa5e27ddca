"""What a user may say about a search, and which of it no search can be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_tinykg.commands.tune.objectives import OBJECTIVES
from recbole_tinykg.errors import ConfigurationError

SCHEDULERS = ("asha", "none")
SEARCHERS = ("random", "optuna", "grid")

SearchSource = str | os.PathLike[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Wishes:
    """What a user may say about a search; None: not said."""

    search: SearchSource = None
    trials: int | None = None
    scheduler: str | None = None
    searcher: str | None = None
    objectives: tuple[str, ...] | None = None
    cpus: float | None = None
    gpus: float | None = None
    concurrent: int | None = None
    seed: int | None = None


def check_wishes(wishes: Wishes) -> None:
    """Raise ConfigurationError for values that no search can have."""
    _one_of("--scheduler", wishes.scheduler, SCHEDULERS)
    _one_of("--searcher", wishes.searcher, SEARCHERS)
    for objective in wishes.objectives or ():
        _one_of("--objectives", objective, OBJECTIVES)
    if wishes.objectives is not None and len({*wishes.objectives}) != len(wishes.objectives):
        raise ConfigurationError(f"--objectives must differ; got {','.join(wishes.objectives)}")
    for flag, number in (("--trials", wishes.trials), ("--concurrent", wishes.concurrent)):
        if number is not None and (type(number) is not int or number < 1):
            raise ConfigurationError(f"{flag} must be an integer >= 1; got {number!r}")
    if wishes.seed is not None and (type(wishes.seed) is not int or not 0 <= wishes.seed < 2**32):
        raise ConfigurationError(
            f"--tune_seed must be an integer from 0 to 2^32 - 1; got {wishes.seed!r}"
        )
    for flag, amount, least in (("--cpus", wishes.cpus, "> 0"), ("--gpus", wishes.gpus, ">= 0")):
        if amount is None:
            continue
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        whole = is_number and (amount < 1 or float(amount).is_integer())
        if not whole or amount < 0 or (flag == "--cpus" and amount == 0):
            raise ConfigurationError(
                f"{flag} of a trial must be a number {least}, a fraction or a whole number; "
                f"got {amount!r}"
            )


def _one_of(flag: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise ConfigurationError(f"{flag} must be one of {', '.join(choices)}; got {value!r}")
