"""Checks of RecBole's own keys, before data are read and hours are spent.

RecBole checks few of them. Text in place of a number ends in a traceback after the data set has
been read; an unknown `learner` becomes Adam; text in place of True or False counts as True; and a
`valid_metric` that is not computed stops the run after its first epoch.
"""

from __future__ import annotations

import codecs
import importlib.util
from typing import Any

from recbole.config import Config as RecBoleConfig
from recbole.utils import InputType, ModelType

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model.checks import check_flag, check_integer, check_weight

_INTEGERS = {  # least value
    "epochs": 0,
    "train_batch_size": 1,
    "eval_batch_size": 1,
    "eval_step": 0,
    "stopping_step": 0,
    "worker": 0,
    "seed": 0,
    "loss_decimal_place": 0,
    "metric_decimal_place": 0,
}
_NUMBERS = ("learning_rate", "weight_decay")
_FLAGS = (
    "use_gpu reproducibility show_progress save_dataset save_dataloaders shuffle repeatable "
    "enable_amp enable_scaler kg_reverse_r log_wandb"
).split()
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
_WITHOUT_CUTOFF = ("auc", "gauc", "mae", "rmse", "logloss")  # named without @k


def check_values(config: RecBoleConfig) -> None:
    """Check `final_config_dict` before RecBole derives other keys from it.

    Raises:
        ConfigurationError: With the key, what it may be and what it is.
    """
    final = {key: value for key, value in config.final_config_dict.items() if value is not None}
    for key, least in _INTEGERS.items():
        check_integer(key, final.get(key, least), least)
    check_weight(final, *(key for key in _NUMBERS if key in final))
    check_flag(final, *(key for key in _FLAGS if key in final))
    if str(final.get("learner", "adam")).lower() not in _LEARNERS:
        raise ConfigurationError(
            f"learner must be one of {', '.join(_LEARNERS)}; got {final['learner']!r}"
        )
    if not isinstance(final.get("clip_grad_norm", {}), dict):
        raise ConfigurationError(
            "clip_grad_norm must be a dictionary such as {'max_norm': 5}; "
            f"got {final['clip_grad_norm']!r}"
        )
    _check_encoding(final.get("encoding", "utf-8"))
    if final.get("log_wandb") and importlib.util.find_spec("wandb") is None:
        raise ConfigurationError(
            "log_wandb must be False where Weights & Biases is not installed; got True: "
            "pip install wandb"
        )
    if config.external_config_dict.get("device") is not None:
        raise ConfigurationError(
            f"device must come from use_gpu and gpu_id; got {final.get('device')!r}: "
            "give --use_gpu=False for the CPU, --gpu_id=0 for a GPU"
        )


def _check_encoding(encoding: Any) -> None:
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError):
        raise ConfigurationError(
            f"encoding must be one that Python knows, such as utf-8; got {encoding!r}"
        ) from None


def check_valid_metric(config: RecBoleConfig) -> None:
    """Raise ConfigurationError unless `valid_metric` is among the metrics that are computed."""
    final = config.final_config_dict
    metrics = [str(name).lower() for name in final["metrics"]]
    names = [name for name in metrics if name in _WITHOUT_CUTOFF]
    names += [f"{name}@{k}" for name in metrics if name not in names for k in final["topk"]]
    if str(final["valid_metric"]).lower() not in names:
        raise ConfigurationError(
            f"valid_metric must be one of the metrics at one of topk, {', '.join(names)}; "
            f"got {final['valid_metric']!r}"
        )


def check_negatives(config: RecBoleConfig) -> None:
    """Raise ConfigurationError if a model that needs negatives would get none."""
    given = config.final_config_dict["train_neg_sample_args"]
    kind = (getattr(config.model_class, key, None) for key in ("type", "input_type"))
    if tuple(kind) != (ModelType.KNOWLEDGE, InputType.PAIRWISE):
        return
    if given is None or given["distribution"] == "none":
        raise ConfigurationError(
            f"train_neg_sample_args must say how to draw the negatives of {config.model}; "
            f"got {given!r}: give {{'distribution': 'uniform', 'sample_num': 1}}"
        )
