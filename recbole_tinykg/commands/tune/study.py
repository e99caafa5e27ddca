"""One search: everything that was asked for, checked, and kept in `<output>/search.json`.

An interrupted search continues from that file alone. Options given when it continues must be those
it began with.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.tune import spaces
from recbole_tinykg.commands.tune.objectives import losses
from recbole_tinykg.commands.tune.options import SearchSource, TuneOptions, check_options
from recbole_tinykg.commands.tune.records import Trial, folder_of
from recbole_tinykg.commands.tune.search_files import as_mapping, read_search, space_of
from recbole_tinykg.config import Config, properties
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.errors import ConfigurationError, did_you_mean
from recbole_tinykg.model import MODELS

_DEFAULT_TRIALS = 8
_FIXED = (  # where and how trials are compared
    "model dataset data_path checkpoint_dir run_name epochs eval_args eval_step metrics topk "
    "valid_metric gpu_id use_gpu device show_progress"
).split()
_OWN_PLACES = ("gpu_id", "run_name", "checkpoint_dir")  # of each trial
_PATHS = ("data_path", "dataset_save_path", "dataloaders_save_path")


@dataclass(frozen=True)
class Study:
    """A search, ready to run.

    Attributes:
        model: Class name.
        dataset: Name of the data set.
        base: Configuration that all trials share, as `Config.from_plain` reads it.
        user: What the user gave of it, for `best.yaml`.
        search: Domains of the searched parameters, as `space_of` reads them.
        default: The searched parameters in `base`: trial 0.
        trials: How many, the default among them.
        scheduler: `asha` or `none`.
        searcher: `random`, `optuna` or `grid`.
        objectives: Some of `OBJECTIVES`, the first of which chooses the best trial.
        cpus: Of a trial.
        gpus: Of a trial.
        seed: Of the searcher.
        metric: Name of the validation metric.
        metric_bigger: Whether a larger one is better.
        epochs: Most epochs of a trial.
        concurrent: Most trials at a time; None: as many as fit.
    """

    model: str
    dataset: str
    base: dict[str, Any]
    user: dict[str, Any]
    search: dict[str, Any]
    default: dict[str, Any]
    trials: int
    scheduler: str
    searcher: str
    objectives: tuple[str, ...]
    cpus: float
    gpus: float
    seed: int
    metric: str
    metric_bigger: bool
    epochs: int
    concurrent: int | None = None

    @property
    def space(self) -> spaces.Space:
        """Domains by parameter."""
        return space_of(self.search)

    def losses(self, trial: Trial, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """Return a trial's objectives, all to be made small; None if it failed or lacks one."""
        if trial.status == "failed":
            return None
        return losses(vars(trial), objectives, self.metric_bigger)

    def points(self) -> list[dict[str, Any]]:
        """Return the parameters of every trial; Optuna's are not known in advance."""
        if self.searcher == "grid":
            return list(spaces.grid(self.space, self.default))
        return spaces.distinct_samples(self.space, self.trials, self.seed, self.default)

    @property
    def num_trials(self) -> int:
        """Number of trials, when all have run."""
        return self.trials if self.searcher == "optuna" else len(self.points())

    def save(self, output: Path) -> None:
        """Write `search.json`.

        Raises:
            ConfigurationError: The folder cannot be written.
        """
        try:
            folder_of(output, 0).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"--output must be a folder that can be written; got {output}: {error.strerror}"
            ) from error
        write_whole(output / "search.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, output: Path) -> Study:
        """Read the search of a folder.

        Raises:
            ConfigurationError: There is none.
        """
        try:
            kept = json.loads((output / "search.json").read_text(encoding="utf-8"))
            return cls(**{**kept, "objectives": tuple(kept["objectives"])})
        except OSError as error:
            raise ConfigurationError(
                f"--continue needs a search in --output; there is no {output / 'search.json'}"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                f"{output / 'search.json'} must be as tune wrote it; got {error}"
            ) from error


def check_new(output: Path) -> None:
    """Raise ConfigurationError if a folder holds a search."""
    if (output / "search.json").exists():
        raise ConfigurationError(
            f"--output must be a folder without a search; {output} holds one: "
            "go on with it by --continue, or give another --output"
        )


def make_study(config: Config, options: TuneOptions, argv_keys: Sequence[str] = ()) -> Study:
    """Check what a user asks for and fill in the rest.

    Args:
        config: Configuration that all trials share.
        options: What to search and how.
        argv_keys: Parameters given on the command line: they are not searched.

    Raises:
        ConfigurationError: Something that cannot be searched, or not in this way.
    """
    check_dataset(config)
    check_options(options)
    if config["eval_step"] < 1 or config["epochs"] < 1:
        raise ConfigurationError(
            "tune needs epochs >= 1 and eval_step >= 1, for trials are compared by validation; "
            f"got epochs {config['epochs']}, eval_step {config['eval_step']}"
        )
    space = _space(config, options.search, argv_keys)
    objectives = tuple(options.objectives or ("valid",))
    searcher = options.searcher or "random"
    study = Study(
        model=config["model"],
        dataset=config["dataset"],
        base=shared_configuration(config),
        user=given_parameters(config),
        search=as_mapping(space),
        default={name: config[name] for name in space},
        trials=_num_trials(options.trials, searcher, space),
        scheduler=options.scheduler or ("asha" if len(objectives) == 1 else "none"),
        searcher=searcher,
        objectives=objectives,
        cpus=1 if options.cpus is None else options.cpus,
        gpus=0 if options.gpus is None else options.gpus,
        seed=config["seed"] if options.seed is None else options.seed,
        metric=str(config["valid_metric"]).lower(),
        metric_bigger=bool(config["valid_metric_bigger"]),
        epochs=config["epochs"],
        concurrent=options.concurrent,
    )
    return Study(**{**_plain(asdict(study)), "objectives": objectives})


def refuse_changes(
    study: Study, output: Path, options: TuneOptions, given: Mapping[str, Any]
) -> None:
    """Refuse to continue a search with other options or parameters than it began with.

    Args:
        study: As it began.
        output: Its folder.
        options: Those given now.
        given: Model, data set and parameters given now.
    """
    check_options(options)
    kept = {"model": study.model, "dataset": study.dataset, **study.user}
    pairs = [(f"--{name}", kept.get(name), value) for name, value in given.items()]
    for name, value in vars(options).items():
        if name == "search" and value is not None:
            search = as_mapping(_loaded(value))
            pairs.append(("--search", {key: study.search.get(key) for key in search}, search))
        elif value is not None:
            flag = "--tune_seed" if name == "seed" else f"--{name}"
            pairs.append((flag, getattr(study, name), value))
    for flag, known, value in pairs:
        if _plain(known) != _plain(value):
            raise ConfigurationError(
                f"{flag} must stay as it was in {output / 'search.json'}, {known}; got {value}: "
                "leave it out to go on, or begin a new search in another --output"
            )


def shared_configuration(config: Config) -> dict[str, Any]:
    """Return the configuration for workers: other folders, GPUs that Ray chooses, no bars."""
    return {**_portable(config), "show_progress": False}


def given_parameters(config: Config) -> dict[str, Any]:
    """Return what the user gave of the configuration, for a file that gives it again."""
    plain = _portable(config)
    given = config.external_config_dict.keys() & plain.keys() - {"model", "dataset"}
    return {key: plain[key] for key in config.external_config_dict if key in given}


def _portable(config: Config) -> dict[str, Any]:
    """Return a configuration for any folder and GPU: absolute paths, and none of a trial's own."""
    plain = {key: value for key, value in config.to_plain().items() if key not in _OWN_PLACES}
    paths = {key: str(Path(plain[key]).absolute()) for key in _PATHS if plain.get(key)}
    return {**plain, **paths}


def default_search_file(model: str) -> Path:
    """Return the search file that comes with a twin; a stock model takes its twin's.

    Raises:
        ConfigurationError: There is none for this model.
    """
    twin = model if model in MODELS else f"Tiny{model}"
    file = properties() / "search" / f"{twin}.yaml"
    if not file.is_file():
        raise ConfigurationError(
            f"--search must name a search file for {model}: none comes with it (docs/tune.md)"
        )
    return file


def _space(config: Config, search: SearchSource, argv_keys: Sequence[str]) -> spaces.Space:
    """Return the searched parameters: those the model has and the command line does not set.

    `compress_bits` is not searched under a budget, where nothing reads it.
    """
    bundled = search is None
    source = default_search_file(config["model"]) if search is None else search
    space = dict(_loaded(source))
    where = "search" if isinstance(source, Mapping) else str(source)
    known = config.final_config_dict
    has_budget = known.get("compress_budget") is not None or "compress_budget" in space
    settled = {*argv_keys, "compress_bits"} if has_budget else {*argv_keys}
    for name in list(space):
        if name in _FIXED:
            raise ConfigurationError(
                f"{where}, {name} must be a parameter that trials may differ in; "
                f"it is the same for all: give it as --{name}=..."
            )
        if (bundled and name.startswith("compress_") and name not in known) or name in settled:
            del space[name]
        elif name not in known:
            near = did_you_mean(name, known)
            hint = f"; {near}" if near else ""
            raise ConfigurationError(
                f"{where}, {name} must be a parameter of {config['model']}; it has none such{hint}"
            )
    if not space:
        raise ConfigurationError(
            f"{where} must leave something to search; all of it is given on the command line"
        )
    return space


def _loaded(source: str | os.PathLike[str] | Mapping[str, Any]) -> spaces.Space:
    return space_of(source) if isinstance(source, Mapping) else read_search(source)


def _num_trials(trials: int | None, searcher: str, space: spaces.Space) -> int:
    if searcher != "grid":
        return _DEFAULT_TRIALS if trials is None else trials
    endless = [name for name, domain in space.items() if domain.values is None]
    if endless:
        raise ConfigurationError(
            "--searcher=grid needs choice, integer or quniform for every parameter; "
            f"got uniform or loguniform for {', '.join(endless)}"
        )
    points = math.prod(len(domain.values or ()) for domain in space.values())
    if trials is not None and trials < points:
        raise ConfigurationError(
            f"--trials must be at least {points}, the points of the grid; got {trials}: "
            "leave it out, or search with --searcher=random"
        )
    return points


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: tuples are lists."""
    return json.loads(json.dumps(value))
