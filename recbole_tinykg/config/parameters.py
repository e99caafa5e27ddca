"""Parameters as people write them on a command line and in files.

Text is read as a Python literal (`2`, `1e-3`, `[64,32]`, `true`) if it is one, and stays text if
not (`RO`). RecBole does the same with `eval`, which would run code.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_tinykg.errors import ConfigurationError


def read_arguments(argv: Sequence[str]) -> dict[str, str]:
    """Read `--key=value` arguments; refuse anything else, which RecBole would ignore.

    Raises:
        ConfigurationError: An argument of another form, or one key with two values.
    """
    parameters: dict[str, str] = {}
    for argument in argv:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not (argument.startswith("--") and equals and key):
            raise ConfigurationError(f"arguments must look like --key=value; got {argument!r}")
        if parameters.setdefault(key, value) != value:
            raise ConfigurationError(
                f"--{key} must be given once; got {parameters[key]!r} and {value!r}"
            )
    return parameters


def read_literal(value: Any) -> Any:
    """Return the value of a text: a Python literal, `true`, `false`, or the text itself.

    Values that are not text are returned unchanged.
    """
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
    is_parameter = isinstance(literal, str | int | float | list | tuple | dict | None)
    return literal if is_parameter else value


def read_file(file: str | os.PathLike[str], loader: type = yaml.SafeLoader) -> dict[str, Any]:
    """Read a YAML file of parameters; an empty one has none.

    Args:
        file: Its path.
        loader: YAML loader; RecBole's reads `1e-3` as a number.

    Raises:
        ConfigurationError: It cannot be read, or holds something else.
    """
    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise ConfigurationError(f"config file {file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"config file {file} must be YAML; {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigurationError(f"{file} must hold `key: value` lines; got {content!r}")
    return content or {}
