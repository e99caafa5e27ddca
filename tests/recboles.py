"""RecBole alone, as the oracle: its functions in the order of its `run_recbole`."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_tinykg import compat


def recboles_own(name: str, parameters: dict[str, Any]) -> tuple[Any, tuple[Any, Any, Any], Any]:
    """Configuration, loaders and model of a stock model on the data set `tiny`."""
    compat.apply()
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
