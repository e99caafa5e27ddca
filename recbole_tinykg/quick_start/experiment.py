"""All that one run consists of, built from a configuration or restored from a checkpoint.

Whatever needs a data set with a model comes through `build`: it checks that files and kernels are
there and then draws as RecBole draws, number by number. The same seed gives RecBole's splits,
initial weights and batches, so that a twin and its stock model can be compared step by step.

Whatever opens a checkpoint to use its model comes through `restore`: the file is read once, and
the data set must be the one that the model was trained on.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recbole.utils import init_seed

from recbole_tinykg import checkpoint, ops
from recbole_tinykg.compat.side_effects import recboles_data_errors, recboles_warnings_ignored
from recbole_tinykg.config import Config
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.data.atomic_files import create_dataset
from recbole_tinykg.data.loaders import data_preparation
from recbole_tinykg.quick_start import run_log
from recbole_tinykg.trainer import get_trainer

if TYPE_CHECKING:
    from recbole.data.dataloader import AbstractDataLoader
    from recbole.data.dataset import Dataset
    from recbole.model.abstract_recommender import AbstractRecommender

Model = str | type | None
"""Class name or class; None: as the key `model` says."""

FilePath = str | os.PathLike[str]


@dataclass(frozen=True)
class Experiment:
    """Configuration, data and model; `trainer.fit(train_data, valid_data)` trains it."""

    config: Config
    dataset: Dataset
    train_data: AbstractDataLoader
    valid_data: AbstractDataLoader
    test_data: AbstractDataLoader
    model: AbstractRecommender

    @functools.cached_property
    def trainer(self) -> Any:
        """The model's trainer, made on first use: models that we cannot train can be restored."""
        return get_trainer(self.config, self.model)

    @property
    def splits(self) -> dict[str, Dataset]:
        """The interactions of `train`, `valid` and `test`; a split without any is left out."""
        loaders = {"train": self.train_data, "valid": self.valid_data, "test": self.test_data}
        return {name: loader._dataset for name, loader in loaders.items() if loader}


def prepare(
    model: Model = None,
    dataset: str | None = None,
    config_file_list: Sequence[FilePath] | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Experiment:
    """Build data, model and trainer of a twin or a stock model; write no files.

    Args:
        model: Class name, such as `TinyKGAT` or `KGAT`; None: as the key `model` says.
        dataset: Name of the data set; None: as the key `dataset` says.
        config_file_list: YAML files of parameters.
        config_dict: Parameters that win over the files.

    Raises:
        ConfigurationError: Model, data set or a parameter cannot be used.
        NativeLibraryError: `compress_require_native` is set and the library is missing.
    """
    experiment = build(Config(model, dataset, config_file_list, config_dict))
    _ = experiment.trainer  # refuses a model that RecBole trains in a loop of its own
    return experiment


def build(config: Config, *, writes_log: bool = False) -> Experiment:
    """Build what a configuration describes, with initial weights, in RecBole's order of draws.

    Args:
        config: The configuration.
        writes_log: Whether to start RecBole's log, once files and kernels have been found.

    Raises:
        ConfigurationError: The data set is missing, or RecBole cannot read it.
        NativeLibraryError: `compress_require_native` is set and the library is missing.
    """
    check_dataset(config)
    if config["compress_require_native"]:
        ops.require_native(config["device"].type)
    if writes_log:
        run_log.start(config)
    logger = logging.getLogger()
    init_seed(config["seed"], config["reproducibility"])
    with recboles_warnings_ignored():
        with recboles_data_errors(config):
            dataset = create_dataset(config)
            logger.info(dataset)
            loaders = data_preparation(config, dataset)
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        model = config.model_class(config, loaders[0]._dataset).to(config["device"])
    logger.info(model)
    return Experiment(config, dataset, *loaders, model)


def restore(
    path: FilePath,
    changes: Mapping[str, Any] | None = None,
    *,
    check: Callable[[Config], None] = lambda _: None,
) -> Experiment:
    """Open a checkpoint of ours: its configuration, data and model, with the trained weights.

    Args:
        path: The file.
        changes: Parameters that win over the checkpoint's, such as `data_path` or `topk`.
        check: Refuses configurations by an error, before any data are read.

    Raises:
        CheckpointError: Not a checkpoint of ours, a damaged one, or one of another training split.
        ConfigurationError: The data set is missing, or a changed parameter cannot be used.
    """
    return restore_state(checkpoint.load(path), changes, check=check)


def restore_state(
    state: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    *,
    check: Callable[[Config], None] = lambda _: None,
) -> Experiment:
    """Do the same as `restore` with the content of a checkpoint that is already loaded."""
    config = Config.from_plain(state["config"], changes)
    check(config)
    experiment = build(config)
    checkpoint.check_class(experiment.model, state)
    checkpoint.check_dataset(checkpoint.dataset_fingerprint(experiment.splits["train"]), state)
    checkpoint.restore_model(experiment.model, state)
    return experiment


def load_data_and_model(
    model_file: FilePath, *, config_dict: Mapping[str, Any] | None = None
) -> tuple[
    Config, AbstractRecommender, Dataset, AbstractDataLoader, AbstractDataLoader, AbstractDataLoader
]:
    """Load a checkpoint of ours and the data it was trained on; RecBole's form of `restore`.

    Args:
        model_file: Checkpoint.
        config_dict: Parameters that win over the checkpoint's, such as `data_path`.

    Returns:
        Config, model, dataset, train data, valid data, test data.

    Raises:
        CheckpointError: Not a checkpoint of ours, a damaged one, or one of another training split.
        ConfigurationError: The data set is missing, or a changed parameter cannot be used.
    """
    return in_recboles_order(restore(model_file, config_dict))


def in_recboles_order(
    built: Experiment,
) -> tuple[
    Config, AbstractRecommender, Dataset, AbstractDataLoader, AbstractDataLoader, AbstractDataLoader
]:
    """Return an experiment as RecBole's `load_data_and_model` returns it."""
    loaders = built.train_data, built.valid_data, built.test_data
    return built.config, built.model, built.dataset, *loaders
