"""`recbole-tinykg plan`: will it fit? Predicts the memory of a training, without training.

A twin is planned at each number of bits, after the stock model that it replaces. What is resident
is known once the model is built. What a step adds is found by running its code without its numbers
(`recbole_tinykg.memory.simulation`), in a tenth of a second and without memory. With `--measure`
each configuration also takes one real step, in a process of its own.
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
    as_bits,
    chosen_models,
    chosen_name,
    parameters_for,
    read_parameters,
    read_switch,
    refuse_conflicts,
)
from recbole_tinykg.commands.plan import measurement
from recbole_tinykg.commands.plan.device_memory import room_for
from recbole_tinykg.commands.plan.memory import Memory, Plan, PlannedModel
from recbole_tinykg.commands.plan.prediction import predict
from recbole_tinykg.commands.plan.steps import lend_model
from recbole_tinykg.commands.plan.tables import text_of
from recbole_tinykg.config import Config, read_files
from recbole_tinykg.config.parameters import read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.memory.byte_sizes import read_bytes
from recbole_tinykg.memory.simulation import SimulationError
from recbole_tinykg.model import get_model, is_tiny, stock_name_of
from recbole_tinykg.quick_start import Experiment, prepare
from recbole_tinykg.trainer.bit_budget import allocate_for


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Print the plan of what the flags name; parameters win over the configuration files."""
    refuse_conflicts(flags, parameters)
    files = flags.get("config_files", "").split()
    output = _output_file(flags.get("output"))
    result = plan(
        chosen_models(flags, files),
        chosen_name("dataset", flags, files),
        bits=read_literal(flags.get("bits", BITS)),
        measure=read_switch(flags, "measure"),
        config_file_list=files,
        config_dict=read_parameters(parameters),
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
    """Predict the memory of trainings, without training; draws no random numbers.

    Args:
        model: Names of models. A twin is planned at each of `bits`, after its stock model.
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
    widths = as_bits(bits)
    given = {**read_files(config_file_list or ()), **(config_dict or {})}
    if len(set(widths)) < len(widths):
        raise ConfigurationError(f"bits must be different numbers; got {widths}")
    if not names:
        raise ConfigurationError("model must name at least one model; got none")
    if "compress_bits" in (config_dict or {}) and not given.get("compressed_saves"):
        raise ConfigurationError(
            f"compress_bits must be given to plan as bits, such as --bits=2; "
            f"got compress_bits={given['compress_bits']}"
        )
    pairs = [(stock_name_of(get_model(name)), name) for name in names]
    chosen = {name: parameters_for(name, given) for pair in pairs for name in pair}  # none twice
    budgets = {}
    for name, own in chosen.items():  # so that no error waits behind loading and measuring
        budgets[name] = Config(name, dataset, config_dict=own)["compress_budget"]
        if is_tiny(get_model(name)):
            own["compress_budget"] = None  # its bits are chosen in `_plan_model`
    models = []
    with random_state.preserved():
        for name, own in chosen.items():
            models += _plan_model(name, dataset, widths, own, budgets[name])
    if measure:
        models = [
            m.with_measured(*measurement.measure(m, dataset, chosen[m.model])) for m in models
        ]
    return Plan(dataset, models)


def _plan_model(
    name: str, dataset: str, bits: Sequence[int], given: dict[str, Any], budget: Any
) -> list[PlannedModel]:
    """Plan a stock model, or a twin at each number of bits and, if there is one, the budget."""
    experiment = prepare(name, dataset, config_dict={**given, "state": "ERROR"})
    device, room = room_for(experiment)
    choices: Sequence[int | None] = bits if is_tiny(get_model(name)) else (None,)
    models = [
        PlannedModel(name, choice, device, room, *_try_to_predict(experiment, choice))
        for choice in choices
    ]
    if budget is not None and is_tiny(get_model(name)):
        num_bytes = read_bytes(budget, "compress_budget")
        uses_amp = bool(experiment.config["enable_amp"])
        with lend_model(experiment.config, experiment.model, experiment.train_data):
            allocation = allocate_for(
                experiment.model, experiment.train_data, num_bytes, uses_amp=uses_amp
            )
        found = _try_to_predict(experiment, allocation.bits)
        models.append(PlannedModel(name, None, device, room, *found, allocation=allocation))
    return models


def _try_to_predict(
    experiment: Experiment, bits: int | Mapping[str, int] | None
) -> tuple[Memory | None, str]:
    """Return the memory and nothing, or None and why it cannot be predicted."""
    try:
        return predict(experiment, bits), ""
    except SimulationError as error:
        return None, str(error)


def _output_file(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if not text or path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigurationError(
            f"--output must name a file in a folder that is there; got {text!r}"
        )
    return path
