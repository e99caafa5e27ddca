"""What the flags of several commands mean: models, data set, bits, switches, and parameters.

A command's `run(flags, parameters)` reads its flags with these functions, calls one typed function
and prints what that returns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recbole_tinykg import quantization
from recbole_tinykg.config.own_keys import refuse_unknown
from recbole_tinykg.config.parameters import read_arguments, read_file, read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import get_model, is_tiny
from recbole_tinykg.model.checks import is_integer

BITS = quantization.BITS[::-1]
"""Numbers of bits that `--bits` takes, in the order of tables: most first."""

_DEFAULTS = {"model": "TinyKGAT", "dataset": "ml-100k"}
_TWINS_ONLY = "compress_"
_STOCK_ONLY = ("detect_anomaly", "compressed_saves")


def refuse_conflicts(flags: Mapping[str, str], parameters: Sequence[str] = ()) -> None:
    """Refuse what several models cannot share: one name, one run, one checkpoint."""
    given = {*flags, *(argument.removeprefix("--").partition("=")[0] for argument in parameters)}
    for other in ("model", "resume", "run_name"):
        if {"model_list", other} <= given:
            raise ConfigurationError(f"--model_list must come without --{other}; got both")


def chosen_models(flags: Mapping[str, str], files: Sequence[str]) -> list[str]:
    """Return the names in `--model_list`, or the one name of `--model`, files or default."""
    if "model_list" not in flags:
        return [chosen_name("model", flags, files)]
    return [model.strip() for model in flags["model_list"].split(",")]


def chosen_name(key: str, flags: Mapping[str, str], files: Sequence[str]) -> str:
    """Return `model` or `dataset` from the flags, the last file with it or the default."""
    name = flags.get(key)
    for file in reversed(files):
        if name is None:
            name = read_file(file).get(key)
    return name or _DEFAULTS[key]


def named_file(flags: Mapping[str, str], flag: str) -> str:
    """Return the file that a flag names, without which the command cannot run."""
    if flag not in flags:
        raise ConfigurationError(f"--{flag} must name a file; got none")
    return flags[flag]


def read_switch(flags: Mapping[str, str], name: str) -> bool:
    """Read a flag that is on or off; off if it is not given."""
    value = read_literal(flags.get(name, "False"))
    if not isinstance(value, bool):
        raise ConfigurationError(f"--{name} must be True or False; got {value!r}")
    return value


def as_bits(given: int | Collection[int]) -> tuple[int, ...]:
    """Return numbers of bits, given as one or as several.

    Raises:
        ConfigurationError: There is none, or one that is not in `BITS`.
    """
    bits = tuple(given) if isinstance(given, Collection) else (given,)
    if not bits or not all(is_integer(number) and number in BITS for number in bits):
        raise ConfigurationError(
            f"--bits must be one or several of {', '.join(map(str, BITS))}, such as --bits=8,2; "
            f"got {given!r}"
        )
    return bits


def read_parameters(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `--key=value` arguments into values.

    Raises:
        ConfigurationError: An argument of another form, or a key that nothing reads.
    """
    given = read_arguments(arguments)
    refuse_unknown(given, {})
    return {key: read_literal(value) for key, value in given.items()}


def as_arguments(parameters: Mapping[str, Any]) -> list[str]:
    """Write parameters as `--key=value` arguments."""
    return [f"--{key}={value!r}" for key, value in parameters.items()]


def checkpoint_changes(arguments: Sequence[str]) -> dict[str, Any]:
    """Read parameters that win over a checkpoint's; model and data set are the checkpoint's.

    Raises:
        ConfigurationError: Model or data set is among them, or a key that nothing reads.
    """
    given = read_parameters(arguments)
    for key in ("model", "dataset"):
        if key in given:
            raise ConfigurationError(f"--{key} comes with the checkpoint; got {given[key]!r}")
    return given


def parameters_for(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that one of several models reads.

    `compress_*` goes to twins, `detect_anomaly` and `compressed_saves` to stock models; stock
    models that train with `compressed_saves` read `compress_*` too.
    """
    if is_tiny(get_model(model)):
        return {key: value for key, value in given.items() if key not in _STOCK_ONLY}
    if read_literal(given.get("compressed_saves")) is True:
        return dict(given)
    return {key: value for key, value in given.items() if not key.startswith(_TWINS_ONLY)}
