"""Which models and data set the flags of a command name, and which parameters each model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_tinykg import quantization
from recbole_tinykg.config.own_keys import refuse_unknown
from recbole_tinykg.config.parameters import read_arguments, read_file, read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import get_model, is_tiny

BITS = quantization.BITS[::-1]
"""Numbers of bits that `--bits` takes, in the order of tables: most first."""

_DEFAULTS = {"model": "TinyKGAT", "dataset": "ml-100k"}
_TWINS_ONLY = ("--compress_",)
_STOCK_ONLY = ("--detect_anomaly", "--compressed_saves")


def refuse_conflicts(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Refuse what several models do not have: one name, one run, one checkpoint."""
    given = {*flags, *(argument.removeprefix("--").partition("=")[0] for argument in parameters)}
    for other in ("model", "resume", "run_name"):
        if {"model_list", other} <= given:
            raise ConfigurationError(f"--model_list must come without --{other}; got both")


def chosen_models(flags: Mapping[str, str], files: Sequence[str]) -> list[str]:
    """Names in `--model_list`, or the one of `--model`, files or default."""
    if "model_list" not in flags:
        return [chosen_name("model", flags, files)]
    return [model.strip() for model in flags["model_list"].split(",")]


def meant_for(model: str, parameters: Sequence[str]) -> list[str]:
    """Return the parameters for one of several models: `compress_*` goes to twins only.

    `detect_anomaly` goes to stock models only. With `compressed_saves` they read the keys of
    the twins, too.
    """
    saves = read_literal(read_arguments(parameters).get("compressed_saves", "False")) is True
    others = _STOCK_ONLY if is_tiny(get_model(model)) else () if saves else _TWINS_ONLY
    return [argument for argument in parameters if not argument.startswith(others)]


def checkpoint_changes(parameters: Sequence[str]) -> dict[str, Any]:
    """Read parameters that win over a checkpoint's; model and data set are the checkpoint's.

    Raises:
        ConfigurationError: Model or data set is among them, or a key that nothing reads.
    """
    given = read_arguments(parameters)
    for key in ("model", "dataset"):
        if key in given:
            raise ConfigurationError(f"--{key} comes with the checkpoint; got {given[key]!r}")
    refuse_unknown(given, {})
    return {key: read_literal(value) for key, value in given.items()}


def chosen_name(key: str, flags: Mapping[str, str], files: Sequence[str]) -> str:
    """Return `model` or `dataset` from the flags, the last file with it or the default."""
    name = flags.get(key)
    for file in reversed(files):
        if name is None:
            name = read_file(file).get(key)
    return name or _DEFAULTS[key]
