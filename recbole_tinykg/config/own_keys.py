"""Checks of our keys, in RecBole's `Config` as in ours.

RecBole lets unknown keys pass and reads missing ones as None, so a misspelt key silently trains
the wrong model. Keys that begin with `compress` are therefore strict here: unknown names and
values out of range raise `ConfigurationError`.
"""

from __future__ import annotations

import functools
import itertools
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import recbole
from recbole.config import Config as RecBoleConfig
from recbole.utils import ModelType, argument_list, get_local_time

from recbole_tinykg.errors import ConfigurationError, did_you_mean
from recbole_tinykg.memory.byte_sizes import read_bytes
from recbole_tinykg.model import MODELS, get_model, is_tiny
from recbole_tinykg.model.checks import is_integer
from recbole_tinykg.quantization import BITS

_COMPRESS_KEYS = tuple(
    "compress_bits compress_rounding compress_seed compress_require_native compress_budget "
    "compressed_saves".split()
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "compress_bits": BITS,
    "compress_rounding": ("stochastic", "nearest"),
    "compress_require_native": (False, True),
    "cuda_graphs": (False, True),
    "compressed_saves": (False, True),
    "detect_anomaly": (False, True),
    "skip_unread_kg_batches": (False, True),
}
_WITHOUT_DEFAULT = (  # read by RecBole or by us, but in none of RecBole's property files and lists
    "model dataset run_name nproc ip port world_size group_offset single_spec device "
    "tail_ratio token_num_threshold xgb_early_stopping_rounds use_filter repeat_first_hop "
    "cin contrast encoding eta feature_num has_residual norm sim additional_feat_suffix"
).split()
_SEED_LIMIT = 2**63  # a seed travels as int64
_RUN_NAME = re.compile(r"[\w+-][\w.+-]*")


def finish(config: RecBoleConfig) -> None:
    """Check our keys in `final_config_dict`, and fill in the run name and the compression seed.

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
    if final.get("compress_budget") is not None:
        _check_budget(config)
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


def refuse_unknown(arguments: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    """Refuse command-line keys that nothing reads, such as misspelt ones, which RecBole ignores.

    Args:
        arguments: Parameters of the command line.
        final: All parameters, including the arguments.

    Raises:
        ConfigurationError: A key that RecBole, its models and this package do not have.
    """
    strict = [key for key in arguments if not key.startswith("compress")]  # checked by themselves
    if all(key in _general_keys() for key in strict):
        return
    known = _general_keys() | _keys_with_defaults() | {*final} - {*arguments}
    for key in strict:
        if key not in known:
            hint = did_you_mean(key, known, cutoff=0.75) or "see --help"
            raise ConfigurationError(
                f"--{key} is neither a flag of this command nor a parameter of RecBole's; {hint}"
            )


def _general_keys() -> frozenset[str]:
    """Return the keys that any model reads, with and without a default."""
    groups = ("general", "training", "evaluation", "dataset")
    listed = (getattr(argument_list, f"{group}_arguments") for group in groups)
    return frozenset(itertools.chain(*listed, _WITHOUT_DEFAULT, _CHOICES))


@functools.cache
def _keys_with_defaults() -> frozenset[str]:
    """Return the keys in the property files of all models: a list of models shares its keys."""
    files = (Path(recbole.__file__).parent / "properties").rglob("*.yaml")
    key = re.compile(r"^([\w-]+) *:", flags=re.MULTILINE)
    return frozenset(itertools.chain(*(key.findall(f.read_text(encoding="utf-8")) for f in files)))


def refuse_saves(config: RecBoleConfig) -> None:
    """Check the keys of a stock model that RecBole's own trainer will train.

    Raises:
        ConfigurationError: One of our keys is set, which that trainer does not read.
    """
    _check_compress_names(config)
    for key in ("compressed_saves", "skip_unread_kg_batches"):
        if config.final_config_dict.get(key):
            raise ConfigurationError(
                f"{key} must be False in RecBole's own functions; got True with "
                f"{config.model}: train it by recbole_tinykg.run_recbole_tinykg"
            )


def _check_compress_names(config: RecBoleConfig) -> None:
    for key in config.external_config_dict:
        if not str(key).startswith("compress"):
            continue
        if key not in _COMPRESS_KEYS:
            hint = did_you_mean(str(key), _COMPRESS_KEYS, cutoff=0)
            raise ConfigurationError(
                f"{key} is not a key; {hint} (keys: {', '.join(_COMPRESS_KEYS)})"
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
    if not is_integer(seed) or not 0 <= seed < _SEED_LIMIT:
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


def _check_budget(config: RecBoleConfig) -> None:
    """Check that the model can choose bits, and rounds stochastically, as a budget assumes."""
    final = config.final_config_dict
    read_bytes(final["compress_budget"], "compress_budget")
    if not getattr(config.model_class, "chooses_bits", False):
        choosers = [name for name in MODELS if getattr(get_model(name), "chooses_bits", False)]
        raise ConfigurationError(
            f"compress_budget is for {', '.join(choosers)}; got it with "
            f"{config.model}: give compress_bits instead"
        )
    if final["compress_rounding"] != "stochastic":
        raise ConfigurationError(
            "compress_rounding must be stochastic with compress_budget, which measures the noise; "
            f"got {final['compress_rounding']!r}"
        )


def refuse_bits_beside_budget(config: RecBoleConfig) -> None:
    """Refuse bits from the user where a budget chooses them (a checkpoint's parameters have both).

    Raises:
        ConfigurationError: `compress_bits` was given with `compress_budget`.
    """
    given = config.external_config_dict
    if given.get("compress_budget") is not None and given.get("compress_bits") is not None:
        raise ConfigurationError(
            "compress_bits must be left out with compress_budget, which chooses the bits; got both"
        )


def check_dataset(config: RecBoleConfig) -> None:
    """Refuse a data set whose files are missing.

    Raises:
        ConfigurationError: The folder, `.inter`, or a knowledge model's `.kg` or `.link` is
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
