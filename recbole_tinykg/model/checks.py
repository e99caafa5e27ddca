"""Checks of a model's parameters: each names the key, what it must be, and what it is."""

from __future__ import annotations

from typing import Any

from recbole_tinykg.errors import ConfigurationError


def check_choice(config: Any, key: str, choices: tuple[Any, ...]) -> None:
    """Raise ConfigurationError unless the value of `key` is one of `choices`."""
    if config[key] not in choices:
        raise ConfigurationError(
            f"{key} must be one of {', '.join(map(str, choices))}; got {config[key]!r}"
        )


def check_integer(key: str, value: Any, at_least: int) -> None:
    """Raise ConfigurationError unless a value is an integer and large enough."""
    if not is_integer(value) or value < at_least:
        raise ConfigurationError(f"{key} must be an integer of {at_least} or more; got {value!r}")


def check_positive(config: Any, *keys: str) -> None:
    """Raise ConfigurationError unless the values are integers above 0."""
    for key in keys:
        if not is_positive(config[key]):
            raise ConfigurationError(f"{key} must be a positive integer; got {config[key]!r}")


def check_rate(config: Any, *keys: str) -> None:
    """Raise ConfigurationError unless the values are probabilities below 1."""
    for key in keys:
        value = config[key]
        if not is_number(value) or not 0 <= value < 1:
            raise ConfigurationError(f"{key} must lie in [0, 1); got {value!r}")


def check_weight(config: Any, *keys: str) -> None:
    """Raise ConfigurationError unless the values are finite numbers of 0 or more."""
    for key in keys:
        if not is_weight(config[key]):
            raise ConfigurationError(f"{key} must be a number of 0 or more; got {config[key]!r}")


def check_flag(config: Any, *keys: str) -> None:
    """Raise ConfigurationError unless the values are True or False."""
    for key in keys:
        if not isinstance(config[key], bool):
            raise ConfigurationError(f"{key} must be True or False; got {config[key]!r}")


def is_weight(value: Any) -> bool:
    """Return whether a value is a finite number of 0 or more."""
    return is_number(value) and 0 <= value < float("inf")


def is_positive(value: Any) -> bool:
    """Return whether a value is an integer above 0."""
    return is_integer(value) and value > 0


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or any float; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
