"""`recbole-tinykg compare`: stock models against their twins, paired by seed.

Every run is a process of its own, so that its peaks are its own, and the comparison goes on if it
dies. Finished runs are kept (`folder`); the same command makes those that are missing.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.compare import chart, process, tables, tensorboard
from recbole_tinykg.commands.compare.folder import Folder, Line
from recbole_tinykg.commands.compare.runs import Request, Run, make_request
from recbole_tinykg.commands.compare.statistics import Row, rows
from recbole_tinykg.commands.flags import (
    chosen_models,
    chosen_name,
    read_parameters,
    read_switch,
    refuse_conflicts,
)
from recbole_tinykg.config.parameters import read_literal
from recbole_tinykg.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison.

    Attributes:
        rows: A line per twin, bit width and quantity; the lines of `comparison.jsonl`.
        runs: The finished runs; lines of `runs.jsonl`.
        failures: Why a run failed, by its name.
        table: The tables, as the command prints them.
        output: Folder with everything.
    """

    rows: tuple[Row, ...]
    runs: tuple[Line, ...]
    failures: Mapping[str, str]
    table: str
    output: Path


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Compare what the flags name; parameters are for every run. Print the tables.

    Raises:
        UserError: Wrong input; or, after the tables, runs that failed.
    """
    refuse_conflicts(flags)
    files = flags.get("config_files", "").split()
    result = compare(
        chosen_models(flags, files),
        chosen_name("dataset", flags, files),
        bits=read_literal(flags.get("bits", "2")),
        seeds=read_literal(flags.get("seeds", "5")),
        config_file_list=files,
        config_dict=read_parameters(parameters),
        output=flags.get("output"),
        keep_checkpoints=read_switch(flags, "keep_checkpoints"),
        verbose=True,
    )
    if result.rows:
        print(f"\n{result.table}\n\n{result.output}: comparison.md, .jsonl, .png, tensorboard")
    if result.failures:
        number = f"{len(result.failures)} of {len(result.failures) + len(result.runs)} runs"
        what = "; ".join(f"{name}: {reason}" for name, reason in result.failures.items())
        raise UserError(f"{number} failed, the same command tries them again: {what}")


def compare(
    model: str | Sequence[str] = "TinyKGAT",
    dataset: str = "ml-100k",
    *,
    bits: Sequence[int] = (2,),
    seeds: int | Sequence[int] = 5,
    config_file_list: Sequence[str | os.PathLike[str]] = (),
    config_dict: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    keep_checkpoints: bool = False,
    verbose: bool = False,
) -> Comparison:
    """Compare twins with the models they replace.

    Args:
        model: Class name of a twin, or several.
        dataset: Name of the data set.
        bits: Bit widths of the twins.
        seeds: Number of seeds, from the configuration's on, or the seeds.
        config_file_list: YAML files of parameters.
        config_dict: Parameters of every run, which win over the files.
        output: Folder; None: `comparisons/<models>-<dataset>`.
        keep_checkpoints: Whether finished runs keep their checkpoints.
        verbose: Whether to print a line per run.

    Raises:
        UserError: Wrong input, or a folder with another comparison.
    """
    twins = [model] if isinstance(model, str) else model
    request = make_request(twins, dataset, bits, seeds, config_file_list, config_dict)
    request.check()
    name = re.sub(r"[^\w.+-]", "_", f"{'+'.join(request.twins)}-{request.dataset}")
    folder = Folder(Path(output or f"comparisons/{name}"))
    with folder.lock(request):
        failures = _make_all(request, folder, keep_checkpoints, verbose)
        wanted = {*request.runs()}
        runs = {run: line for run, line in folder.finished_runs().items() if run in wanted}
        found = tuple(rows(request, runs))
        for run, line in runs.items():  # a TensorBoard folder that was removed comes again
            tensorboard.write(folder.path / "tensorboard", run, line, request)
        table = tables.text(request, found, runs, failures, tables.TERMINAL)
        markdown = tables.text(request, found, runs, failures, tables.MARKDOWN)
        picture = "\n\n![chart](comparison.png)" if found else ""
        lines = "".join(f"{json.dumps(row.to_plain())}\n" for row in found)
        write_whole(folder.path / "comparison.jsonl", lines)
        write_whole(folder.path / "comparison.md", f"{markdown}{picture}\n")
        chart.draw(found, folder.path / "comparison.png")
    return Comparison(found, tuple(runs.values()), failures, table, folder.shown)


def _make_all(request: Request, folder: Folder, keep: bool, verbose: bool) -> dict[str, str]:
    """Make the runs that are missing; return why some failed."""
    say = functools.partial(print, end="", flush=True) if verbose else lambda text: None
    wanted = list(request.runs())
    finished = folder.finished_runs()
    failures = {}
    for number, run in enumerate(wanted, 1):
        if run in finished:
            continue
        say(f"[{number}/{len(wanted)}] {run}: ")
        try:
            made = process.make(run, request, folder)
        except KeyboardInterrupt as interrupt:
            done = len(finished.keys() & {*wanted})
            interrupt.add_note(f"{done} of {len(wanted)} runs are finished; repeat the command")
            raise
        problem = made if isinstance(made, str) else _other_splits(made, run, finished)
        if isinstance(made, str) or problem:
            failures[run.name] = problem
            say(f"failed, {problem} (see {folder.path_of(run) / process.LOG})\n")
            continue
        folder.add(made)
        finished[run] = made
        tensorboard.write(folder.path / "tensorboard", run, made, request)
        if not keep:
            folder.forget_checkpoints(run)
        say(f"{_summary_of(made)}\n")
    return failures


def _other_splits(made: Line, run: Run, finished: Mapping[Run, Line]) -> str:
    """Return why a run cannot be compared with another of its seed; empty if it can."""
    for other, line in finished.items():
        if other.seed == run.seed and line["splits"] != made["splits"]:
            return (
                f"its splits differ from those of {other.name}: the data set has changed in "
                "between, give another --output"
            )
    return ""


def _summary_of(line: Line) -> str:
    metric, value = next(iter((line["test"] or {"no test metric": 0.0}).items()))
    return f"test {metric} {value:.4f}, {line['epochs']} epochs of {line['epoch_seconds']:.2f} s"
