"""The flags of `tune`, and the Python function `tune`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.evaluate import evaluate
from recbole_tinykg.commands.flags import chosen_name, read_switch
from recbole_tinykg.commands.report import metrics_table
from recbole_tinykg.commands.tune import cluster, records
from recbole_tinykg.commands.tune.objectives import pareto_front
from recbole_tinykg.commands.tune.options import SearchSource, TuneOptions
from recbole_tinykg.commands.tune.records import Trial
from recbole_tinykg.commands.tune.report import (
    against_default,
    front_table,
    headline,
    plot_front,
    trials_table,
)
from recbole_tinykg.commands.tune.study import (
    Study,
    check_new,
    given_parameters,
    make_study,
    refuse_changes,
)
from recbole_tinykg.config import Config
from recbole_tinykg.config.parameters import read_arguments, read_literal
from recbole_tinykg.errors import UserError

_OWN = ("trials", "scheduler", "searcher", "cpus", "gpus", "concurrent")


@dataclass(frozen=True)
class TuneResult:
    """What a search found.

    Attributes:
        best: The trial with the best first objective.
        best_parameters: Its searched parameters.
        metric: Name of the validation metric.
        default: Trial 0, the configuration before the search.
        trials: All trials, by number.
        front: Numbers of the trials on the Pareto front, if there are several objectives.
        valid_result: Validation metrics of the best trial's checkpoint.
        test_result: Its test metrics: the only ones of the search.
        files: `best` (YAML for `config_files`), `checkpoint`, `table`, `lines`, and with
            several objectives `front` and `picture`.
    """

    best: Trial
    best_parameters: dict[str, Any]
    metric: str
    default: Trial
    trials: list[Trial]
    front: list[int]
    valid_result: dict[str, float]
    test_result: dict[str, float]
    files: dict[str, str]


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Search as the flags say, and print the result."""
    options = {name: read_literal(flags[name]) for name in _OWN if name in flags}
    if "objectives" in flags:
        options["objectives"] = tuple(name.strip() for name in flags["objectives"].split(","))
    if "tune_seed" in flags:
        options["seed"] = read_literal(flags["tune_seed"])
    files = flags.get("config_files", "").split()
    resume = read_switch(flags, "continue")
    result = tune(
        chosen_name("model", flags, files) if not resume or "model" in flags else None,
        chosen_name("dataset", flags, files) if not resume or "dataset" in flags else None,
        config_file_list=files,
        argv=parameters,
        search=flags.get("search"),
        address=flags.get("address"),
        output=flags.get("output"),
        resume=resume,
        verbose=True,
        **options,
    )
    _print(result, Study.load(Path(result.files["table"]).parent))


def tune(
    model: str | None = "TinyKGAT",
    dataset: str | None = "ml-100k",
    *,
    config_file_list: Sequence[str | os.PathLike[str]] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    argv: Sequence[str] = (),
    search: SearchSource = None,
    trials: int | None = None,
    scheduler: str | None = None,
    searcher: str | None = None,
    objectives: Sequence[str] | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    concurrent: int | None = None,
    address: str | None = None,
    output: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    resume: bool = False,
    verbose: bool = False,
) -> TuneResult:
    """Search parameters with Ray Tune, by the validation metric.

    Args:
        model: Class name of a twin or a stock model.
        dataset: Name of the data set.
        config_file_list: YAML files of parameters that all trials share.
        config_dict: Parameters that win over the files.
        argv: Arguments `--key=value` that win over everything else, and are not searched.
        search: Search file, or what a YAML file would hold; None: the file that comes with the
            model.
        trials: How many, the default configuration (trial 0) among them; None: 8, or the grid.
        scheduler: `asha` stops trials that fall behind, `none` does not; None: `asha` if
            there is one objective.
        searcher: `random`, `optuna` or `grid`; None: `random`.
        objectives: Some of `valid`, `saved`, `peak`, `seconds`; None: `valid`.
        cpus: CPUs of a trial, and its threads; None: 1.
        gpus: GPUs of a trial, a fraction to share one; None: 0.
        concurrent: Most trials at a time; None: as many as fit.
        address: `HOST:PORT` or `auto` of a running Ray cluster; None: start one here, or use
            the one that the process is connected to.
        output: Folder of the search; None: `tune/<model>-<dataset>`.
        seed: Of the searcher; None: the key `seed`.
        resume: Continue the search in `output`.
        verbose: Whether to print a line when a trial ends.

    Returns:
        The best trial, all trials, and the test metrics of the best one.

    Raises:
        UserError: Wrong input, no Ray, or every trial failed.
        KeyboardInterrupt: Interrupted; a note says how to continue.
    """
    options = TuneOptions(
        search=search,
        trials=trials,
        scheduler=scheduler,
        searcher=searcher,
        objectives=None if objectives is None else tuple(objectives),
        cpus=cpus,
        gpus=gpus,
        concurrent=concurrent,
        seed=seed,
    )
    cluster.check_address(address)
    given = (model, dataset, config_file_list, config_dict, argv)
    folder = Path(output or f"tune/{model or 'TinyKGAT'}-{dataset or 'ml-100k'}").absolute()
    if resume:
        study = _resume(given, options, folder)
    else:
        check_new(folder)
        study = make_study(Config(*given), options, list(read_arguments(argv)))
    if verbose:
        print(headline(study, folder), flush=True)
    if len(records.read_trials(folder)) < study.num_trials:
        _search(study, folder, address, verbose)
    return _conclude(study, folder)


def _resume(given: tuple[Any, ...], options: TuneOptions, folder: Path) -> Study:
    study = Study.load(folder)
    model, dataset, files, changes, argv = given
    now = {key: name for key, name in (("model", model), ("dataset", dataset)) if name}
    if files or changes or argv:
        now |= given_parameters(Config(study.model, study.dataset, files, changes, argv))
    refuse_changes(study, folder, options, now)
    return study


def _search(study: Study, folder: Path, address: str | None, verbose: bool) -> None:
    cluster.require(study.searcher)
    from recbole_tinykg.commands.tune import engine

    with cluster.silence() as out, cluster.connect(address, study.cpus, study.gpus):
        study.save(folder)
        try:
            engine.execute(study, folder, out if verbose else None)
            if len(records.read_trials(folder)) < study.num_trials:
                raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(f"go on with recbole-tinykg tune --continue --output={folder}")
            raise


def _conclude(study: Study, folder: Path) -> TuneResult:
    """Choose the best trial and test it; write the tables and the result."""
    trials = records.read_trials(folder)
    records.write_table(folder / "trials.csv", trials)
    by_first = [study.losses(trial, study.objectives[:1]) for trial in trials]
    scored = [(loss, place) for place, loss in enumerate(by_first) if loss is not None]
    if not scored:
        raise UserError(
            f"all {len(trials)} trials failed, the first because: {trials[0].error}; "
            f"see {folder / 'trials.csv'} and {folder}/trials/*/error.txt"
        )
    best = trials[min(scored)[1]]
    points = [study.losses(trial, study.objectives) for trial in trials]
    places = pareto_front(points) if len(study.objectives) > 1 else []
    front = [trials[place] for place in places]
    files = _write_files(study, folder, trials, best, front)
    metrics = evaluate(files["checkpoint"])
    result = TuneResult(
        best=best,
        best_parameters=best.parameters,
        metric=study.metric,
        default=trials[0],
        trials=trials,
        front=[trial.number for trial in front],
        valid_result=metrics["valid"],
        test_result=metrics["test"],
        files=files,
    )
    write_whole(folder / "result.json", json.dumps(asdict(result), indent=2) + "\n")
    return result


def _write_files(
    study: Study, folder: Path, trials: Sequence[Trial], best: Trial, front: Sequence[Trial]
) -> dict[str, str]:
    """Write `best.yaml` and, of several objectives, the front; return the files of a result."""
    parameters = {"model": study.model, "dataset": study.dataset, **study.user, **best.parameters}
    write_whole(folder / "best.yaml", yaml.safe_dump(parameters, sort_keys=False))
    name = f"trial-{best.number:03d}.pth"
    files = {
        "best": str(folder / "best.yaml"),
        "checkpoint": str(records.folder_of(folder, best.number) / "saved" / name),
        "table": str(folder / "trials.csv"),
        "lines": str(folder / "trials.jsonl"),
    }
    if len(study.objectives) > 1:
        complete = [trial for trial in trials if study.losses(trial, study.objectives)]
        records.write_table(folder / "pareto.csv", front)
        numbers = [trial.number for trial in front]
        plot_front(folder / "pareto.png", complete, numbers, vars(study))
        files |= {"front": str(folder / "pareto.csv"), "picture": str(folder / "pareto.png")}
    return files


def _print(result: TuneResult, study: Study) -> None:
    print(f"\n{trials_table(result.trials, result.metric, result.best.number)}\n")
    if result.front:
        chosen = {trial.number: trial for trial in result.trials}
        front = [chosen[number] for number in result.front]
        print(f"Pareto front of {', '.join(study.objectives)}:")
        print(f"{front_table(front, study.objectives, result.metric)}\n")
    print(against_default(result.best, result.default, study))
    columns = {"valid": result.valid_result, "test": result.test_result}
    print(f"\n{metrics_table(columns)}\n")
    print("\n".join(os.path.relpath(file) for file in result.files.values()))
