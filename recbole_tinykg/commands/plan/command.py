"""`recbole-tinykg plan`: will it fit? Predicts the memory of a training, without training.

For a twin the stock model it replaces is planned too, and the twin at each number of bits. What is
resident is there once the model is built; what a step adds is found by running the step's code
without its numbers (`recbole_tinykg.memory.simulation`), in a tenth of a second and no memory. With
`--measure` one real step of each configuration stands beside, in a process of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_tinykg.checkpoint import random_state
from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.flags import (
    BITS,
    chosen_models,
    chosen_name,
    meant_for,
    refuse_conflicts,
)
from recbole_tinykg.commands.plan.device_memory import room_for
from recbole_tinykg.commands.plan.measurement import measured
from recbole_tinykg.commands.plan.memory import Memory, Plan, PlannedModel
from recbole_tinykg.commands.plan.prediction import predicted
from recbole_tinykg.commands.plan.steps import candidates_scored
from recbole_tinykg.commands.plan.tables import text_of
from recbole_tinykg.config import Config, read_files
from recbole_tinykg.config.parameters import read_arguments, read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.memory.byte_sizes import read_bytes
from recbole_tinykg.memory.simulation import SimulationError
from recbole_tinykg.model import get_model, is_tiny, stock_name_of
from recbole_tinykg.quick_start import Experiment, prepare
from recbole_tinykg.trainer.bit_budget import allocate_for

_TWINS_ONLY = "compress_"


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Print the plan of what the flags name.

    Args:
        flags: `model`, `model_list`, `dataset`, `config_files`, `bits`, `measure`,
            `output`.
        parameters: `--key=value` of everything else.
    """
    refuse_conflicts(flags, parameters)
    files = flags.get("config_files", "").split()
    output = _output_file(flags.get("output"))
    models, dataset = chosen_models(flags, files), chosen_name("dataset", flags, files)
    for name in _with_hosts(models):  # which refuses misspelt parameters
        own = _parameters_of(name, read_files(files))
        Config(name, dataset, config_dict=own, argv=_without_bits(meant_for(name, parameters)))
    result = plan(
        models,
        dataset,
        bits=_bits_of(flags.get("bits")),
        measure=_switch("measure", flags.get("measure", "False")),
        config_file_list=files,
        config_dict={k: read_literal(v) for k, v in read_arguments(parameters).items()},
    )
    print(text_of(result))
    if output is not None:
        text = json.dumps(result.to_dict(), indent=2, allow_nan=False)
        write_whole(output, text + "\n", "plan")
        print(f"\n{output}")


def plan(
    model: str | Sequence[str] = "TinyKGAT",
    dataset: str = "ml-100k",
    *,
    bits: int | Sequence[int] = BITS,
    measure: bool = False,
    config_file_list: Sequence[str | os.PathLike[str]] | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Plan:
    """Predicts the memory of trainings, without training; draws no random numbers.

    Args:
        model: Names of models. A twin is planned with its stock model before it, at each of `bits`.
        dataset: Name of the data set.
        bits: Numbers of bits per kept activation, or one: 1, 2, 4, 8 or 32. The key
            `compress_budget` adds the bits that it would choose, found in a few steps on the
            first batches.
        measure: Whether to run one real step of each configuration too, in a process of its own.
        config_file_list: YAML files of parameters; `compress_*` keys go to twins only.
        config_dict: Parameters that win over the files; `compress_*` keys go to twins only.

    Returns:
        The plan. A model whose step cannot be simulated, or measured, has a `problem` instead.

    Raises:
        ConfigurationError: A model, data set, parameter or number of bits cannot be used.
    """
    names = [model] if isinstance(model, str) else list(model)
    widths = list(bits) if isinstance(bits, Sequence) else [bits]
    given = {**read_files(config_file_list or ()), **(config_dict or {})}
    _check(names, widths)
    if "compress_bits" in (config_dict or {}) and not given.get("compressed_saves"):
        raise ConfigurationError(
            f"compress_bits must be given to plan as bits, such as --bits=2; "
            f"got compress_bits={given['compress_bits']}"
        )
    chosen = {name: _parameters_of(name, given) for name in _with_hosts(names)}
    budgets = {}
    for name, own in chosen.items():  # so that no error waits behind loading and measuring
        budgets[name] = Config(name, dataset, config_dict=own)["compress_budget"]
        if is_tiny(get_model(name)):
            own["compress_budget"] = None  # the budget's bits are chosen here
    models = []
    with random_state.preserved():
        for name, own in chosen.items():
            models += _planned(name, dataset, widths, own, budgets[name])
    if measure:
        models = [m.with_measured(*measured(m, dataset, chosen[m.model])) for m in models]
    return Plan(dataset, models)


def _without_bits(arguments: Sequence[str]) -> list[str]:
    """The parameters but for `compress_bits`, which `plan` has an error of its own for."""
    return [argument for argument in arguments if not argument.startswith("--compress_bits=")]


def _planned(
    name: str,
    dataset: str,
    bits: Sequence[int],
    given: dict[str, Any],
    budget: Any,
) -> list[PlannedModel]:
    """A stock model, or a twin at each number of bits and under the budget if there is one."""
    experiment = prepare(name, dataset, config_dict={**given, "state": "ERROR"})
    device, room = room_for(experiment)
    choices: Sequence[int | None] = bits if is_tiny(get_model(name)) else (None,)
    models = [
        PlannedModel(name, choice, device, room, *_predicted_or_why_not(experiment, choice))
        for choice in choices
    ]
    if budget is not None and is_tiny(get_model(name)):
        num_bytes = read_bytes(budget, "compress_budget")
        uses_amp = bool(experiment.config["enable_amp"])
        with candidates_scored(experiment.config, experiment.model, experiment.train_data):
            allocation = allocate_for(
                experiment.model, experiment.train_data, num_bytes, uses_amp=uses_amp
            )
        found = _predicted_or_why_not(experiment, allocation.bits)
        models.append(PlannedModel(name, None, device, room, *found, allocation=allocation))
    return models


def _predicted_or_why_not(
    experiment: Experiment, bits: int | Mapping[str, int] | None
) -> tuple[Memory | None, str]:
    try:
        return predicted(experiment, bits), ""
    except SimulationError as error:
        return None, str(error)


def _with_hosts(names: Sequence[str]) -> list[str]:
    """The models, each twin after the stock model that it replaces; none twice."""
    return list(
        dict.fromkeys(planned for n in names for planned in (stock_name_of(get_model(n)), n))
    )


def _parameters_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters for one of several models: `compress_*` goes to those that read it."""
    reads = is_tiny(get_model(name)) or given.get("compressed_saves") is True
    twins_too = {key: v for key, v in given.items() if reads or not key.startswith(_TWINS_ONLY)}
    if is_tiny(get_model(name)):
        twins_too.pop("compressed_saves", None)
        twins_too.pop("detect_anomaly", None)
    return twins_too


def _check(names: Sequence[str], bits: Sequence[Any]) -> None:
    if wrong := [n for n in bits if type(n) is not int or n not in BITS]:
        raise ConfigurationError(f"bits must be numbers of 1, 2, 4, 8, 32; got {wrong[0]!r}")
    if not bits or len(set(bits)) < len(bits):
        raise ConfigurationError(f"bits must be different numbers, at least one; got {bits}")
    if not names:
        raise ConfigurationError("model must name at least one model; got none")


def _bits_of(text: str | None) -> tuple[int, ...]:
    if text is None:
        return BITS
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        message = f"--bits must be numbers of 1, 2, 4, 8, 32, such as 8,2; got {text!r}"
        raise ConfigurationError(message) from None


def _switch(name: str, text: str) -> bool:
    value = read_literal(text)
    if not isinstance(value, bool):
        raise ConfigurationError(f"--{name} must be True or False; got {text!r}")
    return value


def _output_file(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if not text or path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigurationError(
            f"--output must name a file in a folder that is there; got {text!r}"
        )
    return path
