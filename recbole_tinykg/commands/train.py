"""`recbole-tinykg train`: trains one model, or several in turn, and prints the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_tinykg.commands.flags import (
    as_arguments,
    chosen_models,
    chosen_name,
    parameters_for,
    read_parameters,
    refuse_conflicts,
)
from recbole_tinykg.commands.report import table
from recbole_tinykg.config import Config
from recbole_tinykg.quick_start import run_recbole_tinykg


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Train what the flags name; parameters win over the configuration files."""
    refuse_conflicts(flags, parameters)
    files = flags.get("config_files", "").split()
    if "resume" in flags:
        names = (flags.get("model"), flags.get("dataset"))
        results = [run_recbole_tinykg(*names, files, argv=parameters, resume=flags["resume"])]
    else:
        dataset = chosen_name("dataset", flags, files)
        runs = [(model, parameters) for model in chosen_models(flags, files)]
        if "model_list" in flags:
            given = read_parameters(parameters)
            runs = [(model, as_arguments(parameters_for(model, given))) for model, _ in runs]
        for model, arguments in runs:  # so that no error waits behind hours of training
            Config(model, dataset, files, argv=arguments)
        results = [run_recbole_tinykg(model, dataset, files, argv=argv) for model, argv in runs]
    print(f"\n{table(results)}\n")
    for result in results:
        print(f"{result['model']}: {result['files']['best']}, {result['files']['result']}")
