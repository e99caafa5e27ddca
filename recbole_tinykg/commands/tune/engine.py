"""Runs a search with Ray Tune: searcher, scheduler, and the callback that records each trial.

Random and grid searches know their trials in advance and hand them to Ray as a list. Optuna
suggests one after another, through Ray's `OptunaSearch`; it is told the result of the default,
trial 0, as far as the default lies in the searched space.

Ray keeps its state in `<output>/ray`, which may be seconds old when a search is killed. A trial
that ended after that is started again, and reports what its `trial.json` says.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from recbole_tinykg.commands.tune import records, spaces
from recbole_tinykg.commands.tune.objectives import OBJECTIVES, modes
from recbole_tinykg.commands.tune.report import trial_line
from recbole_tinykg.commands.tune.study import Study
from recbole_tinykg.commands.tune.trial import TrialPlan, run_files, train_trial
from recbole_tinykg.errors import UserError

_WORKER_DEATHS = 2  # that a trial survives
_HALVING = 3  # of the trials that reach a rung, one in three goes on
_RUNGS = 3  # below the last epoch
_OUT: ContextVar[TextIO | None] = ContextVar("out", default=None)
"""Where the search of this context prints: Ray pickles callbacks, and no pickle has a stream."""


def execute(study: Study, output: Path, out: TextIO | None) -> None:
    """Run the trials that have not ended yet; return early when interrupted.

    Args:
        study: The search.
        output: Its folder, absolute.
        out: Takes a line per trial; None: nothing is printed.

    Raises:
        UserError: Ray gave up.
    """
    plan = TrialPlan(str(output), study.base, study.cpus, study.gpus)
    resources = {"cpu": study.cpus, "gpu": study.gpus}
    trainable = tune.with_resources(functools.partial(train_trial, plan=plan), resources)
    folder = output / "ray"
    token = _OUT.set(out)
    try:
        if tune.Tuner.can_restore(folder):
            tuner = tune.Tuner.restore(str(folder), trainable)
            _refuse_ended(tuner, study, output)
        else:
            tuner = _new_tuner(study, trainable, folder)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"optuna|ray")
            tuner.fit()
    except (RayError, tune.TuneError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"Ray ended the search: {reason}; go on with tune --continue --output={output}"
        ) from error
    finally:
        _OUT.reset(token)


def _refuse_ended(tuner: tune.Tuner, study: Study, output: Path) -> None:
    """Refuse to continue if Ray has ended every trial, but the record of one is missing."""
    results = tuner.get_results()
    if results.num_terminated + results.num_errors >= study.num_trials:
        raise UserError(
            f"{output}/trials must hold trial.json of all {study.num_trials} trials, which Ray "
            f"has ended; got {len(records.read_trials(output))}: begin a new search"
        )


def _new_tuner(study: Study, trainable: Any, folder: Path) -> tune.Tuner:
    if study.searcher == "optuna":
        searcher: Any = _Optuna.from_study(study)
        space: dict[str, Any] = {}
    else:
        searcher = BasicVariantGenerator()
        points = enumerate(study.points())
        trials = [{"number": number, "parameters": point} for number, point in points]
        space = {"trial": tune.grid_search(trials)}
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(study),
            num_samples=study.trials if study.searcher == "optuna" else 1,
            max_concurrent_trials=study.concurrent,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_WORKER_DEATHS),
            callbacks=[_Journal()],
        ),
    )


def _scheduler(study: Study) -> TrialScheduler:
    if study.scheduler == "none":
        return FIFOScheduler()
    (mode,) = modes(("valid",), study.metric_bigger)
    return ASHAScheduler(
        time_attr="epoch",
        metric="valid",
        mode=mode,
        max_t=study.epochs,
        grace_period=max(1, study.epochs // _HALVING**_RUNGS),
        reduction_factor=_HALVING,
        stop_last_trials=False,  # a trial at the last epoch has finished
    )


def _name(trial: Any) -> str:
    return f"{trial.config['trial']['number']:03d}"


def _suggest(trial: Any, study: Study) -> dict[str, Any]:
    """Ask Optuna for the parameters of the next trial; the first trial is the default."""
    space = study.space
    if trial.number == 0:
        for name in spaces.encode(space, study.default):  # it is enqueued: see `from_study`
            space[name].suggest(name, trial)
        parameters = study.default
    else:
        parameters = {name: domain.suggest(name, trial) for name, domain in space.items()}
    return {"trial": {"number": trial.number, "parameters": parameters}}


class _Optuna(OptunaSearch):
    """Ray's searcher, with trials that failed told to Optuna as such."""

    @classmethod
    def from_study(cls, study: Study) -> _Optuna:
        directions = modes(study.objectives, study.metric_bigger)
        several = len(study.objectives) > 1
        return cls(
            space=functools.partial(_suggest, study=study),
            metric=list(study.objectives) if several else study.objectives[0],
            mode=directions if several else directions[0],
            points_to_evaluate=[spaces.encode(study.space, study.default)],
            seed=study.seed,
        )

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if result is not None and result.get("error"):
            result, error = None, True
        super().on_trial_complete(trial_id, result, error)


class _Journal(tune.Callback):
    """Records a trial when it has ended, and prints a line."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, (trial.last_result or {}).get("error"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, f"its worker died {trial.num_failures} times: killed, or out of memory")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _print(f"trial {trial.config['trial']['number']}: its worker died; it goes on in another")

    def _end(self, trial: Any, error: str | None) -> None:
        output = Path(trial.storage.experiment_fs_path).parent
        number = trial.config["trial"]["number"]
        folder = records.folder_of(output, number)
        if records.read_trial(folder) is None:
            study = Study.load(output)
            ended = _record_of(trial, study, error)
            records.write_trial(output, ended)
            run_files(folder, number).last.unlink(missing_ok=True)
            _print(trial_line(ended, study.metric))


def _print(line: str) -> None:
    out = _OUT.get()
    if out is not None:
        print(line, file=out, flush=True)


def _record_of(trial: Any, study: Study, error: str | None) -> records.Trial:
    """Return what Ray knows of a trial, as a record."""
    row: Mapping[str, Any] = trial.last_result or {}
    measured = {name: row.get(name) for name in OBJECTIVES}
    known = {name: n for name, n in measured.items() if n is not None and not math.isnan(n)}
    complete = row.get("finished") or row.get("epoch", 0) >= study.epochs
    return records.Trial(
        number=trial.config["trial"]["number"],
        parameters=trial.config["trial"]["parameters"],
        status="failed" if error else "finished" if complete else "stopped",
        metrics=row.get("metrics") or {},
        epochs=row.get("epoch", 0),
        best_epoch=row.get("best_epoch"),
        error=error,
        worker_deaths=trial.num_failures,
        **known,
    )
