"""One search: everything that was asked for, checked, and kept in `<output>/search.json`.

A search that was interrupted is taken up from that file alone. What it was asked for then must not
change; asking for the same again is fine.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.commands.tune import spaces
from recbole_tinykg.commands.tune.options import SearchSource, Wishes, check_wishes
from recbole_tinykg.commands.tune.records import folder_of
from recbole_tinykg.commands.tune.search_files import as_mapping, read_search, space_of
from recbole_tinykg.config import Config, properties
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import MODELS

_DEFAULT_TRIALS = 8
_FIXED = (  # they say where or how trials are compared
    "model dataset data_path checkpoint_dir run_name epochs eval_args eval_step metrics topk "
    "valid_metric gpu_id use_gpu device show_progress"
).split()
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

    def points(self) -> list[dict[str, Any]]:
        """Parameters of every trial, known before the first one, unless Optuna suggests them."""
        if self.searcher == "grid":
            return list(spaces.grid(self.space, self.default))
        return spaces.distinct_samples(self.space, self.trials, self.seed, self.default)

    @property
    def num_trials(self) -> int:
        """How many trials there will be."""
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
    """Raise ConfigurationError if there is a search in a folder."""
    if (output / "search.json").exists():
        raise ConfigurationError(
            f"--output must be a folder without a search; {output} holds one: "
            "go on with it by --continue, or give another --output"
        )


def plan(config: Config, wishes: Wishes, argv_keys: Sequence[str] = ()) -> Study:
    """Check what a user wishes for.

    Args:
        config: Configuration that all trials share.
        wishes: What to search and how.
        argv_keys: Parameters given on the command line: they are not searched.

    Raises:
        ConfigurationError: Something that cannot be searched, or so.
    """
    check_dataset(config)
    check_wishes(wishes)
    if config["eval_step"] < 1 or config["epochs"] < 1:
        raise ConfigurationError(
            "tune needs epochs >= 1 and eval_step >= 1, for trials are compared by validation; "
            f"got epochs {config['epochs']}, eval_step {config['eval_step']}"
        )
    space = _space(config, wishes.search, argv_keys)
    objectives = tuple(wishes.objectives or ("valid",))
    searcher = wishes.searcher or "random"
    study = Study(
        model=config["model"],
        dataset=config["dataset"],
        base=shared_configuration(config),
        user=given_parameters(config),
        search=as_mapping(space),
        default={name: config[name] for name in space},
        trials=_num_trials(wishes.trials, searcher, space),
        scheduler=wishes.scheduler or ("asha" if len(objectives) == 1 else "none"),
        searcher=searcher,
        objectives=objectives,
        cpus=1 if wishes.cpus is None else wishes.cpus,
        gpus=0 if wishes.gpus is None else wishes.gpus,
        seed=config["seed"] if wishes.seed is None else wishes.seed,
        metric=str(config["valid_metric"]).lower(),
        metric_bigger=bool(config["valid_metric_bigger"]),
        epochs=config["epochs"],
        concurrent=wishes.concurrent,
    )
    return Study(**{**json.loads(json.dumps(asdict(study))), "objectives": objectives})


def refuse_changes(study: Study, output: Path, wishes: Wishes, given: Mapping[str, Any]) -> None:
    """Refuse to go on with a search under other wishes or parameters than it began with.

    Args:
        study: As it began.
        output: Its folder.
        wishes: What is wished for now.
        given: Model, data set and parameters given now.
    """
    check_wishes(wishes)
    kept = {"model": study.model, "dataset": study.dataset, **study.user}
    pairs = [(f"--{name}", kept.get(name), value) for name, value in given.items()]
    for name, value in vars(wishes).items():
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
    """A configuration for workers: other folders, GPUs that Ray chooses, no bars."""
    base = config.to_plain()
    for key in ("gpu_id", "run_name", "checkpoint_dir"):
        base.pop(key, None)
    for key in _PATHS:
        if base.get(key):
            base[key] = str(Path(base[key]).absolute())
    return {**base, "show_progress": False}


def default_search_file(model: str) -> Path:
    """The search file that comes with a twin; a stock model takes its twin's.

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
    """The searched parameters: known to the model, and not settled by the command line.

    Under a budget nothing reads `compress_bits`, so that it is not searched.
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
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
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


def given_parameters(config: Config) -> dict[str, Any]:
    """What the user gave of the configuration, for a file that gives it again."""
    plain = config.to_plain()
    hidden = {"model", "dataset", "gpu_id", "run_name", "checkpoint_dir"}
    keys = config.external_config_dict.keys() - hidden
    given = {key: plain[key] for key in config.external_config_dict if key in keys & plain.keys()}
    paths = {key: str(Path(given[key]).absolute()) for key in _PATHS if given.get(key)}
    return {**given, **paths}


def _plain(value: Any) -> Any:
    """Tuples are lists in JSON."""
    return json.loads(json.dumps(value))
