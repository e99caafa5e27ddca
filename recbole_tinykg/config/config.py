"""RecBole's `Config` plus the `compress_*` keys, checked before anything is loaded.

A twin is configured like its stock model. The layers, later ones winning::

    RecBole's properties of the stock model (KGAT)
    properties/overall.yaml, properties/model/TinyKGAT.yaml    (ours)
    config files, config_dict, argv                            (the user's)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config as RecBoleConfig

from recbole_tinykg import compat
from recbole_tinykg.checkpoint.plain import to_plain
from recbole_tinykg.config import parameters
from recbole_tinykg.config.own_keys import finish, refuse_bits_beside_budget, refuse_unknown
from recbole_tinykg.config.recbole_keys import check_negatives, check_valid_metric, check_values
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import get_model, is_tiny, stock_name_of

_INHERITED_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")  # RecBole overwrites it with gpu_id

_DERIVED = (
    "MODEL_TYPE MODEL_INPUT_TYPE eval_type valid_metric_bigger topk additional_feat_suffix "
    "eval_args train_neg_sample_args valid_neg_sample_args test_neg_sample_args data_path "
    "gpu_id device single_spec local_rank"
).split()
"""Keys that RecBole computes from others: a plain copy keeps what they were computed from."""


class Config(RecBoleConfig):
    """All parameters of a run, RecBole's and ours; `config["key"]` as in RecBole."""

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | os.PathLike[str]] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        argv: Sequence[str] = (),
        *,
        is_plain: bool = False,
    ) -> None:
        """Merge and check all layers.

        Args:
            model: Class name (`TinyKGAT`, or any model of RecBole's), or the class itself. None:
                as the key `model` of the files, dictionary or arguments says.
            dataset: Name of the data set; None likewise.
            config_file_list: YAML files.
            config_dict: Parameters that win over the files; left unchanged.
            argv: Arguments `--key=value` that win over all else. `sys.argv` is never read.
            is_plain: Whether `config_dict` comes from `to_plain`: its texts are not read as
                literals, and what only training needs is not checked, since a checkpoint may be
                evaluated by metrics other than those that its epochs were judged by.

        Raises:
            ConfigurationError: A key, value, model name or file that cannot be used.
        """
        compat.apply()
        self._argv, self._is_plain = tuple(argv), is_plain
        try:
            super().__init__(model, dataset, config_file_list, config_dict)
        except ConfigurationError:
            raise
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise ConfigurationError(f"RecBole cannot use this configuration: {error}") from error
        if not is_plain:
            check_valid_metric(self)
            refuse_bits_beside_budget(self)

    @classmethod
    def from_plain(
        cls, kept: Mapping[str, Any], changes: Mapping[str, Any] | None = None
    ) -> Config:
        """Rebuild a configuration from `to_plain`; `changes` win over what was kept."""
        kept = {**kept, **(changes or {})}
        return cls(kept["model"], kept["dataset"], config_dict=kept, is_plain=True)

    def to_plain(self) -> dict[str, Any]:
        """Return all that `from_plain` needs to rebuild this configuration, as `plain_parameters`.

        Values without a plain form, such as functions, are left out, and so is `gpu_id` unless the
        user gave it: the choice of GPU belongs to the machine.
        """
        return plain_parameters(self)

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config_dict) if self._is_plain else _read_literals(config_dict)

    def _load_config_files(self, file_list: Sequence[Any] | None) -> dict[str, Any]:
        return read_files(file_list or ())

    def _load_cmd_line(self) -> dict[str, Any]:
        return _read_literals(parameters.read_arguments(self._argv))

    def _get_model_and_dataset(
        self, model: str | type | None, dataset: str | None
    ) -> tuple[str, type, str]:
        model = model or self._required("model")
        dataset = str(dataset or self._required("dataset"))
        if isinstance(model, type):
            return model.__name__, model, dataset
        return str(model), get_model(str(model)), dataset

    def _required(self, key: str) -> Any:
        if self.external_config_dict.get(key) is None:
            raise ConfigurationError(
                f"{key} must be given, as an argument, in config_dict or in a file; got none"
            )
        return self.external_config_dict[key]

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        load = super()._load_internal_config_dict
        load_properties(self, load, model, model_class, dataset)
        if not is_tiny(model_class):
            self.internal_config_dict["detect_anomaly"] = True  # as RecBole ships it, in effect

    def _set_default_parameters(self) -> None:
        refuse_unknown(self.cmd_config_dict, self.final_config_dict)
        check_values(self)
        finish(self)
        super()._set_default_parameters()
        check_negatives(self)

    def _init_device(self) -> None:
        """Choose the device as RecBole does, but respect CUDA_VISIBLE_DEVICES and `use_gpu`."""
        if _INHERITED_GPUS is not None and "gpu_id" not in self.external_config_dict:
            self.final_config_dict["gpu_id"] = _INHERITED_GPUS
        super()._init_device()
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["device"] = torch.device("cpu")


def _read_literals(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: parameters.read_literal(value) for key, value in given.items()}


def read_files(files: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Merge YAML files of parameters, later ones winning, as RecBole reads their numbers."""
    loader = RecBoleConfig._build_yaml_loader(None)
    merged: dict[str, Any] = {}
    for file in files:
        merged.update(parameters.read_file(file, loader))
    return merged


def load_properties(
    config: RecBoleConfig,
    load: Callable[[str, type, str], None],
    model: str,
    model_class: type,
    dataset: str,
) -> None:
    """Fill `internal_config_dict`: a twin takes its stock model's properties, then ours.

    A stock model takes our general ones if it is to train with `compressed_saves`.

    Args:
        config: The configuration under construction.
        load: RecBole's own `_load_internal_config_dict`, bound to it.
        model: Class name.
        model_class: Twin or stock class.
        dataset: Name of the data set.
    """
    load(stock_name_of(model_class), model_class, dataset)
    if is_tiny(model_class) or config.external_config_dict.get("compressed_saves"):
        for file in ("overall.yaml", f"model/{model}.yaml"):
            if (properties() / file).is_file():
                config._update_internal_config_dict(str(properties() / file))


def plain_parameters(config: RecBoleConfig) -> dict[str, Any]:
    """Return the parameters of a configuration, ours or RecBole's, each in plain form."""
    given = {**config.internal_config_dict, **config.external_config_dict}
    if "gpu_id" not in config.external_config_dict:
        del given["gpu_id"]
    current = {key: v for key, v in config.final_config_dict.items() if key not in _DERIVED}
    kept = {}
    for key, value in {**given, **current}.items():
        with contextlib.suppress(TypeError):
            kept[key] = to_plain(value)
    return kept


def properties() -> Path:
    """Return the folder of our YAML files: in an installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "properties"
    return inside if inside.is_dir() else package.parent / "properties"
