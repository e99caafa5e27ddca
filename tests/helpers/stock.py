"""RecBole by itself, as the oracle: its functions in the order of its `run_recbole`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_tinykg.compat import libraries

DETERMINISTIC = {
    "KGIN": {"node_dropout_rate": 0.0},
    "KTUP": {"use_st_gumbel": False},
    "MCCLK": {"node_dropout_rate": 0.0, "mess_dropout_rate": 0.0},
}
"""Settings without which RecBole's own model scores differently each time."""


def build_stock(name: str, parameters: dict[str, Any]) -> tuple[Any, tuple[Any, Any, Any], Any]:
    """Build configuration, loaders and a stock model on the data set `tiny`."""
    libraries.apply()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["run_recbole.py"])
        warnings.simplefilter("ignore", FutureWarning)
        config = Config(name, "tiny", config_dict=dict(parameters))
        init_seed(config["seed"], config["reproducibility"])
        loaders = data_preparation(config, create_dataset(config))
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        model = get_model(name)(config, loaders[0]._dataset)
    torch.autograd.set_detect_anomaly(False)  # RecBole's get_model switches it on
    return config, loaders, model


def train_stock(stock_name, parameters):
    """Train a model by RecBole alone; return trainer, test data and the saved checkpoint."""
    config, (train_data, _, test_data), model = build_stock(stock_name, parameters)
    trainer = get_trainer(config["MODEL_TYPE"], stock_name)(config, model)
    trainer.fit(train_data, saved=True, verbose=False)
    trainer.tensorboard.close()
    return trainer, test_data, Path(trainer.saved_model_file)
