"""`recbole-tinykg convert`: turns a checkpoint that RecBole saved into one of ours.

RecBole pickles its whole configuration into the file, so reading it runs any code that the file
holds. That happens here and nowhere else, and only for a file that the user trusts. Reading the
converted file runs no code.

What a model sampled in addition to its weights, such as KGCN's neighbours, is converted too. KGAT's
attention matrix, which RecBole does not save, is computed again from the weights. That is exact:
RecBole saves right after it has refreshed the attention from the same weights.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recbole_tinykg import checkpoint, compat
from recbole_tinykg.checkpoint.plain import from_plain
from recbole_tinykg.commands.flags import named_file, read_parameters
from recbole_tinykg.compat.side_effects import recboles_deprecations_ignored
from recbole_tinykg.config import Config, plain_parameters
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.model import MODELS
from recbole_tinykg.quick_start.experiment import build

_NEW_IN_OURS = ("run_name", "detect_anomaly")  # in the file if RecBole trained with our Config

FilePath = str | os.PathLike[str]


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Convert `--checkpoint` to `--output`; parameters win over those it was trained with."""
    source, target = named_file(flags, "checkpoint"), named_file(flags, "output")
    name = convert(source, target, flags.get("model"), read_parameters(parameters))
    print(f"{target}: {name}, converted from {source}")


def convert(
    source: FilePath,
    target: FilePath,
    model: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Convert a trusted RecBole checkpoint. Reading `source` runs the code that is in it.

    Args:
        source: Checkpoint that RecBole saved.
        target: File to write, for evaluation and prediction. Training does not continue from it:
            RecBole keeps no random state.
        model: Class name to load it as; None: its model's twin, or the model itself if it has none.
        changes: Parameters that win over those it was trained with, such as `data_path`.

    Returns:
        Class name of the converted model.

    Raises:
        CheckpointError: Not a checkpoint of RecBole's, or of another model or other shapes.
    """
    stock = _read_trusted(source)
    stock_name = stock["config"]["model"]
    twin = f"Tiny{stock_name}"
    name = model or (twin if twin in MODELS else stock_name)
    if name not in (stock_name, twin):
        raise CheckpointError(f"{source} is of model {stock_name}; got {name} to make of it")
    kept = plain_parameters(stock["config"])
    for key in _NEW_IN_OURS:
        kept.pop(key, None)
    config = Config.from_plain({**kept, "model": name}, changes)
    converted = build(config).model
    _fill(converted, stock, source)
    state = {
        **checkpoint.model_state(converted),
        "config": config.to_plain(),
        "epoch": stock["epoch"],
        "best_valid_score": stock["best_valid_score"],
    }
    checkpoint.save(target, state)
    return name


def _read_trusted(path: FilePath) -> dict[str, Any]:
    compat.apply()  # unpickling imports RecBole's model classes
    try:
        state = torch.load(path, map_location="cpu", weights_only=False)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint that RecBole saved") from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{path} needs code that is not installed: {error}") from error
    expected = {"config", "epoch", "best_valid_score", "state_dict"}
    if not isinstance(state, dict) or not expected <= state.keys():
        raise CheckpointError(f"{path} is not a checkpoint that RecBole saved")
    if not hasattr(state["config"], "final_config_dict"):
        raise CheckpointError(f"{path} is a checkpoint of ours already, or not RecBole's")
    return state


def _fill(model: Any, stock: Mapping[str, Any], source: FilePath) -> None:
    """Load RecBole's weights and other state, except cached scores; compute the attention anew."""
    try:
        model.load_state_dict(stock["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{source} does not fit the model or the data set: {error}"
        ) from error
    other = stock.get("other_parameter") or {}
    kept = {key: value for key, value in other.items() if not key.startswith("restore_")}
    model.load_other_parameter(from_plain(kept, next(model.parameters()).device))
    if hasattr(model, "update_attentive_A"):
        with torch.no_grad(), recboles_deprecations_ignored():
            model.update_attentive_A()
