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
from recbole_tinykg.checkpoint.plain import plain
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


class _Typed(dict):
    """Parameters whose text values are text, not literals still to be read."""


class Config(RecBoleConfig):
    """All parameters of a run, RecBole's and ours; `config["key"]` as in RecBole."""

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | os.PathLike[str]] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        argv: Sequence[str] = (),
    ) -> None:
        """Merge and checks all layers.

        Args:
            model: Class name (`TinyKGAT`, or any model of RecBole's), or the class itself. None:
                as the key `model` of the files, dictionary or arguments says.
            dataset: Name of the data set; None likewise.
            config_file_list: YAML files.
            config_dict: Parameters that win over the files; left unchanged.
            argv: Arguments `--key=value` that win over all else. `sys.argv` is never read.

        Raises:
            ConfigurationError: A key, value, model name or file that cannot be used.
        """
        compat.apply()
        self._argv = tuple(argv)
        try:
            super().__init__(model, dataset, config_file_list, config_dict)
        except ConfigurationError:
            raise
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise ConfigurationError(f"RecBole cannot use this configuration: {error}") from error
        if not isinstance(config_dict, _Typed):  # a checkpoint's may be evaluated by other metrics
            check_valid_metric(self)
            refuse_bits_beside_budget(self)

    @classmethod
    def from_plain(
        cls, kept: Mapping[str, Any], changes: Mapping[str, Any] | None = None
    ) -> Config:
        """Rebuild a configuration from `to_plain`; `changes` win over what was kept."""
        kept = _Typed({**kept, **(changes or {})})
        return cls(kept["model"], kept["dataset"], config_dict=kept)

    def to_plain(self) -> dict[str, Any]:
        """Everything needed to rebuild this configuration, in plain containers and scalars.

        Left out are values that have no plain form, such as a function, and `gpu_id` unless the
        user gave it: which GPU there is belongs to the machine.
        """
        return to_plain(self)

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(config_dict, _Typed):
            return dict(config_dict)
        return {key: parameters.read_literal(value) for key, value in config_dict.items()}

    def _load_config_files(self, file_list: Sequence[Any] | None) -> dict[str, Any]:
        return read_files(file_list or ())

    def _load_cmd_line(self) -> dict[str, Any]:
        return self._convert_config_dict(parameters.read_arguments(self._argv))

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
        """As RecBole, but GPUs chosen from outside stay chosen, and no `use_gpu` means CPU."""
        if _INHERITED_GPUS is not None and "gpu_id" not in self.external_config_dict:
            self.final_config_dict["gpu_id"] = _INHERITED_GPUS
        super()._init_device()
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["device"] = torch.device("cpu")


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


def to_plain(config: RecBoleConfig) -> dict[str, Any]:
    """As `Config.to_plain`, for RecBole's own `Config` too."""
    given = {**config.internal_config_dict, **config.external_config_dict}
    if "gpu_id" not in config.external_config_dict:
        del given["gpu_id"]
    current = {key: v for key, v in config.final_config_dict.items() if key not in _DERIVED}
    kept = {}
    for key, value in {**given, **current}.items():
        with contextlib.suppress(TypeError):
            kept[key] = plain(value)
    return kept


def properties() -> Path:
    """Our YAML files: inside an installed package, beside the package in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "properties"
    return inside if inside.is_dir() else package.parent / "properties"
