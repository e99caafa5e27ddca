"""RecBole's ``Config`` plus the ``compress_*`` keys, checked before anything is loaded.

A twin is configured like its host. The layers, later ones winning::

    RecBole's properties of the host (KGAT)
    properties/overall.yaml, properties/model/TinyKGAT.yaml    (ours)
    config files, config_dict, argv                            (the user's)

RecBole lets unknown keys pass and reads missing ones as None, so a misspelt key trains the wrong
model in silence. Keys that begin with ``compress`` are therefore strict here: unknown names and
values out of range raise ``ConfigurationError``.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from recbole.config import Config as RecBoleConfig
from recbole.utils import ModelType, get_local_time

from recbole_tinykg import compat, parameters
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import MODELS, get_model
from recbole_tinykg.plain import plain

_COMPRESS_KEYS = tuple(
    "compress_bits compress_rounding compress_seed compress_require_native compressed_saves".split()
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "compress_bits": (1, 2, 4, 8, 32),
    "compress_rounding": ("stochastic", "nearest"),
    "compress_require_native": (False, True),
    "compressed_saves": (False, True),
    "detect_anomaly": (False, True),
}
_SEED_LIMIT = 2**63  # a seed travels as int64
_RUN_NAME = re.compile(r"[\w+-][\w.+-]*")
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
    """All parameters of a run, RecBole's and ours; ``config["key"]`` as in RecBole."""

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | os.PathLike[str]] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        argv: Sequence[str] = (),
    ) -> None:
        """Merges and checks all layers.

        Args:
            model: Class name (``TinyKGAT``, or any model of RecBole's), or the class itself. None:
                as the key ``model`` of the files, dictionary or arguments says.
            dataset: Name of the data set; None likewise.
            config_file_list: YAML files.
            config_dict: Parameters that win over the files; left unchanged.
            argv: Arguments ``--key=value`` that win over all else. ``sys.argv`` is never read.

        Raises:
            ConfigurationError: A key, value, model name or file that cannot be used.
        """
        compat.apply()
        self._argv = tuple(argv)
        try:
            super().__init__(model, dataset, config_file_list, config_dict)
        except ConfigurationError:
            raise
        except (ValueError, TypeError, RuntimeError, OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"RecBole cannot use this configuration: {error}") from error

    @classmethod
    def from_plain(
        cls, kept: Mapping[str, Any], changes: Mapping[str, Any] | None = None
    ) -> Config:
        """Rebuilds a configuration from ``to_plain``; ``changes`` win over what was kept."""
        kept = _Typed({**kept, **(changes or {})})
        return cls(kept["model"], kept["dataset"], config_dict=kept)

    def to_plain(self) -> dict[str, Any]:
        """Everything needed to rebuild this configuration, in plain containers and scalars.

        Left out are values that have no plain form, such as a function, and ``gpu_id`` unless the
        user gave it: which GPU there is belongs to the machine.
        """
        return to_plain(self)

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(config_dict, _Typed):
            return dict(config_dict)
        return {key: parameters.read_literal(value) for key, value in config_dict.items()}

    def _load_config_files(self, file_list: Sequence[Any] | None) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list or ():
            content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=self.yaml_loader)
            if not isinstance(content, dict | None):
                raise ConfigurationError(f"{file} must hold `key: value` lines; got {content!r}")
            merged.update(content or {})
        return merged

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
        finish(self)
        super()._set_default_parameters()

    def _init_device(self) -> None:
        """As RecBole, but GPUs chosen from outside stay chosen, and no ``use_gpu`` means CPU."""
        if _INHERITED_GPUS is not None and "gpu_id" not in self.external_config_dict:
            self.final_config_dict["gpu_id"] = _INHERITED_GPUS
        super()._init_device()
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["device"] = torch.device("cpu")


def is_tiny(model_class: type) -> bool:
    """Whether a model class is a twin, that is, names the RecBole model it replaces."""
    return hasattr(model_class, "host")


def load_properties(
    config: RecBoleConfig,
    load: Callable[[str, type, str], None],
    model: str,
    model_class: type,
    dataset: str,
) -> None:
    """Fills ``internal_config_dict``: a twin takes its host's properties, then ours.

    A stock model takes our general ones if it is to train with ``compressed_saves``.

    Args:
        config: The configuration under construction.
        load: RecBole's own ``_load_internal_config_dict``, bound to it.
        model: Class name.
        model_class: Twin or stock class.
        dataset: Name of the data set.
    """
    load(getattr(model_class, "host", model), model_class, dataset)
    if is_tiny(model_class) or config.external_config_dict.get("compressed_saves"):
        for file in ("overall.yaml", f"model/{model}.yaml"):
            if (_properties() / file).is_file():
                config._update_internal_config_dict(str(_properties() / file))


def finish(config: RecBoleConfig) -> None:
    """Checks our keys in ``final_config_dict`` and fills in run name and compression seed.

    Raises:
        ConfigurationError: With the key, what it may be and what it is.
    """
    final = config.final_config_dict
    _check_single_process(final)
    _check_compress_names(config)
    for key, choices in _CHOICES.items():
        # 1 == True and 2 == 2.0 in Python, but only one of each is meant
        if key in final and (type(final[key]), final[key]) not in [(type(c), c) for c in choices]:
            raise ConfigurationError(
                f"{key} must be one of {', '.join(map(str, choices))}; got {final[key]!r}"
            )
    if "compress_seed" in final:
        _check_seed(final)
    if is_tiny(config.model_class):
        _check_twin(config)
    name = f"{config.model}-{config.dataset}-{get_local_time()}-{secrets.token_hex(3)}"
    final["run_name"] = final.get("run_name") or re.sub(r"[^\w.+-]", "_", name)
    if not _RUN_NAME.fullmatch(str(final["run_name"])):
        raise ConfigurationError(
            f"run_name must be a file name of letters, digits and `_+-.`; got {final['run_name']!r}"
        )


def _check_single_process(final: Mapping[str, Any]) -> None:
    for key, single in (("nproc", (None, 1)), ("world_size", (None, -1, 0, 1))):
        if final.get(key) not in single:
            raise ConfigurationError(
                f"{key} must be 1; got {final[key]!r}: recbole_tinykg trains in one process for now"
            )


def _check_compress_names(config: RecBoleConfig) -> None:
    for key in config.external_config_dict:
        if not str(key).startswith("compress"):
            continue
        if key not in _COMPRESS_KEYS:
            near = difflib.get_close_matches(key, _COMPRESS_KEYS, n=1, cutoff=0)[0]
            raise ConfigurationError(
                f"{key} is not a key; did you mean {near}? (keys: {', '.join(_COMPRESS_KEYS)})"
            )
        saves = key == "compressed_saves" or config.final_config_dict.get("compressed_saves")
        if not is_tiny(config.model_class) and not saves:
            twin = f"Tiny{config.model}"
            remedy = f"use model {twin} or leave it out" if twin in MODELS else "leave it out"
            raise ConfigurationError(
                f"{key} belongs to the Tiny models and to compressed_saves: True; "
                f"got it with {config.model}: {remedy}"
            )


def _check_seed(final: dict[str, Any]) -> None:
    if final["compress_seed"] is None:
        final["compress_seed"] = final["seed"]
    seed = final["compress_seed"]
    if type(seed) is not int or not 0 <= seed < _SEED_LIMIT:
        raise ConfigurationError(f"compress_seed must be an integer in [0, 2^63); got {seed!r}")


def _check_twin(config: RecBoleConfig) -> None:
    final = config.final_config_dict
    if final["compressed_saves"]:
        raise ConfigurationError(
            f"compressed_saves must be False for {config.model}; got True: "
            "it is for stock models, a Tiny model compresses by itself"
        )
    if final["detect_anomaly"]:
        raise ConfigurationError(
            f"detect_anomaly must be False for {config.model}; got True: only stock models take it"
        )
    config.model_class.check_config(config)


def check_dataset(config: RecBoleConfig) -> None:
    """Refuses a data set whose files are not there.

    Raises:
        ConfigurationError: The folder, ``.inter``, or a knowledge model's ``.kg`` or ``.link`` is
            missing.
    """
    folder, name = Path(config["data_path"]), config["dataset"]
    if not folder.is_dir():
        raise ConfigurationError(
            f"dataset must be a folder under data_path; got {name}, and {folder} does not exist: "
            "put RecBole's atomic files there, or give data_path (the parent folder)"
        )
    needed = [] if config["benchmark_filename"] else [".inter"]
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        needed += [".kg", ".link"]
    missing = [f"{name}{suffix}" for suffix in needed if not (folder / f"{name}{suffix}").is_file()]
    if missing:
        raise ConfigurationError(
            f"{config['model']} needs {', '.join(missing)} in {folder}, and it is not there: "
            "convert the data to RecBole's atomic files"
        )


def to_plain(config: RecBoleConfig) -> dict[str, Any]:
    """As ``Config.to_plain``, for RecBole's own ``Config`` too."""
    given = {**config.internal_config_dict, **config.external_config_dict}
    if "gpu_id" not in config.external_config_dict:
        del given["gpu_id"]
    current = {key: v for key, v in config.final_config_dict.items() if key not in _DERIVED}
    kept = {}
    for key, value in {**given, **current}.items():
        with contextlib.suppress(TypeError):
            kept[key] = plain(value)
    return kept


def _properties() -> Path:
    """Our YAML files: inside an installed package, beside the package in a source checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "properties"
    return inside if inside.is_dir() else package.parent / "properties"
