"""Builds everything of one run, draw by draw as RecBole does, and writes nothing.

The same seed gives the splits, initial weights and batches that RecBole draws, so that a twin and
its stock model can be compared step by step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole.utils import init_seed

from recbole_tinykg import checkpoint, ops
from recbole_tinykg.compat.side_effects import recboles_data_errors, recboles_warnings_ignored
from recbole_tinykg.config import Config
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.data.atomic_files import create_dataset
from recbole_tinykg.data.loaders import data_preparation
from recbole_tinykg.trainer import get_trainer

Names = str | type | None

ConfigFiles = Sequence[str | os.PathLike[str]] | None


@dataclass(frozen=True)
class Experiment:
    """Everything of one run, ready to train: `trainer.fit(train_data, valid_data)`."""

    config: Config
    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any
    trainer: Any


def prepare(
    model: Names = None,
    dataset: str | None = None,
    config_file_list: ConfigFiles = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Experiment:
    """Build data, model and trainer of a twin or a stock model, and writes no files.

    Args:
        model: Class name, such as `TinyKGAT` or `KGAT`; None: as the key `model` says.
        dataset: Name of the data set; None: as the key `dataset` says.
        config_file_list: YAML files of parameters.
        config_dict: Parameters that win over the files.

    Raises:
        ConfigurationError: Model, data set or a parameter cannot be used.
        NativeLibraryError: `compress_require_native` is set and the library is missing.
    """
    return _build(Config(model, dataset, config_file_list, config_dict))


def load_data_and_model(
    model_file: str | os.PathLike[str], *, config_dict: Mapping[str, Any] | None = None
) -> tuple[Config, Any, Any, Any, Any, Any]:
    """Load a checkpoint of ours, and the data it was trained on.

    Args:
        model_file: Checkpoint.
        config_dict: Parameters that win over the checkpoint's, such as `data_path`.

    Returns:
        Config, model, dataset, train data, valid data, test data.

    Raises:
        CheckpointError: Not a checkpoint of ours, or a damaged one.
        ConfigurationError: The data set is not there.
    """
    state = checkpoint.load(model_file)
    config = Config.from_plain(state["config"], config_dict)
    dataset, loaders, model = build_data_and_model(config)
    checkpoint.restore_model(model, state)
    return config, model, dataset, *loaders


def _build(config: Config) -> Experiment:
    dataset, loaders, model = build_data_and_model(config)
    return Experiment(config, dataset, *loaders, model, get_trainer(config, model))


def build_data_and_model(config: Config) -> tuple[Any, tuple[Any, Any, Any], Any]:
    """Build what a configuration describes, in RecBole's order of random draws.

    Returns:
        The data set; its train, valid and test loaders; the model with initial weights.
    """
    _check_surroundings(config)
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
    return dataset, loaders, model


def _check_surroundings(config: Config) -> None:
    """Raise UserError unless the data set, and the native library if required, are there."""
    check_dataset(config)
    if config["compress_require_native"]:
        ops.require_native(config["device"].type)
