"""``recbole-tinykg train``: trains one model, or several in turn, and prints the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from recbole_tinykg.commands.report import table
from recbole_tinykg.config import Config
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import get_model, is_tiny
from recbole_tinykg.parameters import read_arguments, read_literal
from recbole_tinykg.quick_start import run_recbole_tinykg

_DEFAULTS = {"model": "TinyKGAT", "dataset": "ml-100k"}
_TWINS_ONLY = ("--compress_",)
_STOCK_ONLY = ("--detect_anomaly", "--compressed_saves")


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Trains what the flags name.

    Args:
        flags: ``model``, ``model_list``, ``dataset``, ``config_files``, ``resume``.
        parameters: ``--key=value`` of everything else.
    """
    _refuse_conflicts(flags, parameters)
    files = flags.get("config_files", "").split()
    if "resume" in flags:
        names = (flags.get("model"), flags.get("dataset"))
        results = [run_recbole_tinykg(*names, files, argv=parameters, resume=flags["resume"])]
    else:
        dataset = _named("dataset", flags, files)
        runs = [(model, _meant_for(model, parameters, flags)) for model in _models(flags, files)]
        for model, arguments in runs:  # so that no error waits behind hours of training
            Config(model, dataset, files, argv=arguments)
        results = [run_recbole_tinykg(model, dataset, files, argv=argv) for model, argv in runs]
    print(f"\n{table(results)}\n")
    for result in results:
        print(f"{result['model']}: {result['files']['best']}, {result['files']['result']}")


def _refuse_conflicts(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Several models have no one name of a model or of a run, and no one checkpoint."""
    given = {*flags, *(argument.removeprefix("--").partition("=")[0] for argument in parameters)}
    for other in ("model", "resume", "run_name"):
        if {"model_list", other} <= given:
            raise ConfigurationError(f"--model_list must come without --{other}; got both")


def _models(flags: Mapping[str, str], files: Sequence[str]) -> list[str]:
    if "model_list" not in flags:
        return [_named("model", flags, files)]
    return [model.strip() for model in flags["model_list"].split(",")]


def _meant_for(model: str, parameters: Sequence[str], flags: Mapping[str, str]) -> list[str]:
    """In a list of models, keys of the twins go to twins only, those of stock models likewise.

    With `compressed_saves` stock models read the keys of the twins, too.
    """
    if "model_list" not in flags:
        return list(parameters)
    saves = read_literal(read_arguments(parameters).get("compressed_saves", "False")) is True
    others = _STOCK_ONLY if is_tiny(get_model(model)) else () if saves else _TWINS_ONLY
    return [argument for argument in parameters if not argument.startswith(others)]


def _named(key: str, flags: Mapping[str, str], files: Sequence[str]) -> str:
    """A name from the flags, else from the last file that has it, else the default."""
    name = flags.get(key)
    for file in reversed(files):
        if name is None and Path(file).is_file():
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
            name = content.get(key) if isinstance(content, dict) else None
    return name or _DEFAULTS[key]
