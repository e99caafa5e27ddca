"""Search files: a YAML file of ours, or the text format of RecBole's `hyper.test`.

Ours, a parameter per line with one kind of domain and its numbers::

    learning_rate: {loguniform: [1e-4, 1e-2]}    # the bounds themselves
    layers: {choice: [[64], [64, 32]]}
    mess_dropout: {quniform: [0.0, 0.3, 0.1]}    # low, high, step
    n_iter: {integer: [1, 3]}

RecBole's, where hyperopt's `loguniform` takes the exponents of e::

    learning_rate loguniform -8,0
    embedding_size choice [64,96,128]
    dropout_prob quniform 0.0,0.3,0.1

Every error names the file, the line, the parameter, what was expected and what came.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from recbole_tinykg.commands.tune.spaces import Choice, Domain, Range, Space, Steps
from recbole_tinykg.config.parameters import read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model.checks import is_number

KINDS = {
    "choice": "a list of values",
    "integer": "two whole numbers [low, high], low < high",
    "uniform": "two numbers [low, high], low < high",
    "loguniform": "two numbers [low, high], 0 < low < high",
    "quniform": "three numbers [low, high, step], low < high, step > 0, with two multiples or more",
}
_RECBOLES_KINDS = ("choice", "uniform", "quniform", "loguniform")
_RECBOLES_FORM = "must look like `learning_rate loguniform -8,0`"


def read_search(path: str | os.PathLike[str]) -> Space:
    """Read a search file: `.yaml` and `.yml` are ours, any other name is RecBole's format.

    Raises:
        ConfigurationError: The file is missing or does not say what to search.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(
            f"--search must name a search file (docs/tune.md); got {path}: {reason}"
        ) from error
    ours = path.suffix.lower() in (".yaml", ".yml")
    space = dict(_yaml_domains(text, path) if ours else _recbole_domains(text, path))
    if not space:
        raise ConfigurationError(f"{path} must name parameters to search; got none")
    return space


def space_of(search: Mapping[str, Any]) -> Space:
    """Read what a YAML file would hold, given as a dictionary.

    Raises:
        ConfigurationError: It does not say what to search.
    """
    if not search:
        raise ConfigurationError("search must name parameters to search; got none")
    return {name: _one_kind(description, f"search, {name}") for name, description in search.items()}


def as_mapping(space: Space) -> dict[str, Any]:
    """Return the dictionary that `space_of` reads."""
    return {name: _described(domain) for name, domain in space.items()}


def _described(domain: Domain) -> dict[str, list[Any]]:
    match domain:
        case Choice(values):
            return {"choice": list(values)}
        case Steps(first, last, 1):
            return {"integer": [first, last]}
        case Steps(step=step):
            return {"quniform": [domain.values[0], domain.values[-1], step]}
        case Range(low, high, log):
            return {"loguniform" if log else "uniform": [low, high]}
        case _:
            raise TypeError(domain)


def _yaml_domains(text: str, path: Path) -> Iterator[tuple[str, Domain]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} must be YAML; got {error}") from error
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigurationError(
            f"{path} must hold lines such as `learning_rate: {{loguniform: [1e-4, 1e-2]}}`; "
            f"got {content!r}"
        )
    seen: set[str] = set()
    for key, _ in node.value:
        where = f"{path}, line {key.start_mark.line + 1}, {key.value}"
        _refuse_twice(key.value, seen, where)
        yield key.value, _one_kind(content.get(key.value), where)


def _one_kind(description: Any, where: str) -> Domain:
    """Read `{loguniform: [1e-4, 1e-2]}`; a bare list is a choice."""
    if isinstance(description, list | tuple):
        description = {"choice": description}
    if not isinstance(description, Mapping) or len(description) != 1:
        raise ConfigurationError(
            f"{where} must be one of {', '.join(KINDS)} with its numbers, such as "
            f"{{loguniform: [1e-4, 1e-2]}}; got {description!r}"
        )
    ((kind, arguments),) = description.items()
    if kind not in KINDS:
        raise ConfigurationError(f"{where} must be one of {', '.join(KINDS)}; got {kind!r}")
    return _domain(kind, arguments, where)


def _recbole_domains(text: str, path: Path) -> Iterator[tuple[str, Domain]]:
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(maxsplit=2)
        where = f"{path}, line {number}"
        if len(words) < 3:
            raise ConfigurationError(f"{where} {_RECBOLES_FORM}; got {line.strip()!r}")
        name, kind, rest = words
        if kind not in _RECBOLES_KINDS:
            raise ConfigurationError(
                f"{where}, {name} must be one of {', '.join(_RECBOLES_KINDS)}; got {kind!r}"
            )
        _refuse_twice(name, seen, where)
        yield name, _recboles_domain(kind, rest, f"{where}, {name}")


def _recboles_domain(kind: str, rest: str, where: str) -> Domain:
    if kind == "choice":
        return _domain(kind, read_literal(rest), where)
    arguments = [read_literal(number.strip()) for number in rest.split(",")]
    if kind == "loguniform" and all(_is_finite(number) for number in arguments):
        try:
            arguments = [float(f"{math.exp(number):.12g}") for number in arguments]
        except OverflowError:
            expected = "two exponents of e whose powers are finite"
            raise ConfigurationError(f"{where}: loguniform takes {expected}; got {rest}") from None
    return _domain(kind, arguments, where)


def _domain(kind: str, arguments: Any, where: str) -> Domain:
    """Build the domain, or say what `kind` takes."""
    arguments = _literals(arguments)
    values = arguments if isinstance(arguments, list) else []
    if kind == "choice" and values:
        return Choice(tuple(values))
    match kind, values if all(_is_finite(value) for value in values) else []:
        case "integer", [int(low), int(high)] if low < high:
            return Steps(low, high)
        case "uniform", [low, high] if low < high:
            return Range(float(low), float(high))
        case "loguniform", [low, high] if 0 < low < high:
            return Range(float(low), float(high), log=True)
        case "quniform", [low, high, step] if low < high and step > 0:
            first, last = round(low / step), round(high / step)  # as hyperopt rounds
            if first < last:
                return Steps(first, last, step)
    raise ConfigurationError(f"{where}: {kind} takes {KINDS[kind]}; got {arguments!r}")


def _literals(value: Any) -> Any:
    """Read texts as on the command line: `1e-4` is a text to YAML."""
    if isinstance(value, list | tuple):
        return [_literals(item) for item in value]
    return read_literal(value)


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _refuse_twice(name: str, seen: set[str], where: str) -> None:
    if name in seen:
        raise ConfigurationError(f"{where} must be there once; got {name} twice")
    seen.add(name)
