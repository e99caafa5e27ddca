"""What a user may ask of a search, and the check of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_tinykg.commands.tune.objectives import OBJECTIVES
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model.checks import is_integer, is_number, is_positive

SCHEDULERS = ("asha", "none")
SEARCHERS = ("random", "optuna", "grid")

SearchSource = str | os.PathLike[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class TuneOptions:
    """What a user may ask of a search; None: not given."""

    search: SearchSource = None
    trials: int | None = None
    scheduler: str | None = None
    searcher: str | None = None
    objectives: tuple[str, ...] | None = None
    cpus: float | None = None
    gpus: float | None = None
    concurrent: int | None = None
    seed: int | None = None


def check_options(options: TuneOptions) -> None:
    """Raise ConfigurationError for values that no search can have."""
    _one_of("--scheduler", options.scheduler, SCHEDULERS)
    _one_of("--searcher", options.searcher, SEARCHERS)
    for objective in options.objectives or ():
        _one_of("--objectives", objective, OBJECTIVES)
    if options.objectives is not None and len({*options.objectives}) != len(options.objectives):
        raise ConfigurationError(f"--objectives must differ; got {','.join(options.objectives)}")
    for flag, number in (("--trials", options.trials), ("--concurrent", options.concurrent)):
        if number is not None and not is_positive(number):
            raise ConfigurationError(f"{flag} must be an integer >= 1; got {number!r}")
    seed = options.seed
    if seed is not None and not (is_integer(seed) and 0 <= seed < 2**32):
        raise ConfigurationError(f"--tune_seed must be an integer from 0 to 2^32 - 1; got {seed!r}")
    for flag, amount, least in (("--cpus", options.cpus, "> 0"), ("--gpus", options.gpus, ">= 0")):
        if amount is None:
            continue
        whole = is_number(amount) and (amount < 1 or float(amount).is_integer())
        if not whole or amount < 0 or (flag == "--cpus" and amount == 0):
            raise ConfigurationError(
                f"{flag} of a trial must be a number {least}, a fraction or a whole number; "
                f"got {amount!r}"
            )


def _one_of(flag: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise ConfigurationError(f"{flag} must be one of {', '.join(choices)}; got {value!r}")
