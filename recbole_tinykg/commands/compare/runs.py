"""Which runs a comparison is made of, and the arguments of each.

Seed by seed, stock and then its twin at each bit width: whenever a comparison is interrupted,
the seeds so far are complete pairs. RecBole splits, initialises and samples by the seed, so that
the runs of a seed have the same splits, the same initial weights and the same batches.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_tinykg.commands.flags import BITS, chosen_models, chosen_name, meant_for
from recbole_tinykg.config import Config
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.config.parameters import read_arguments, read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.model import MODELS, get_model, stock_name_of

_DEFAULT_BITS = (2,)
_DEFAULT_SEEDS = 5
_OURS = {  # parameters that a comparison sets itself
    "compress_bits": "give --bits, such as --bits=8,2",
    "compress_budget": "the bits that are compared are those of --bits",
    "compressed_saves": "the stock model is what the twins are compared with",
    "run_name": "every run gets a name of its own",
    "checkpoint_dir": "give --output, the folder of the whole comparison",
    "nproc": "runs are made one after another",
}
_PER_RUN = ("seed", "show_progress", "data_path")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model: Class that is trained.
        bits: Bits of a twin; None for a stock model.
        seed: RecBole's `seed`.
    """

    model: str
    bits: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder and files, such as `TinyKGAT-2bit-2020`."""
        middle = "" if self.bits is None else f"-{self.bits}bit"
        return f"{self.model}{middle}-{self.seed}"

    def __str__(self) -> str:
        """Return words for people."""
        bits = "" if self.bits is None else f" at {self.bits} bit{'s' * (self.bits > 1)}"
        return f"{self.model}{bits}, seed {self.seed}"


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Attributes:
        twins: Class names; each is compared with its stock model.
        dataset: Name of the data set.
        bits: Bit widths of the twins.
        seeds: One run of everything for each.
        config_files: Absolute paths.
        argv: Parameters of every run, `--key=value`.
    """

    twins: tuple[str, ...]
    dataset: str
    bits: tuple[int, ...]
    seeds: tuple[int, ...]
    config_files: tuple[str, ...]
    argv: tuple[str, ...]

    def runs(self) -> Iterator[Run]:
        """Every run, in the order in which they are made."""
        for seed in self.seeds:
            for twin in self.twins:
                yield Run(stock_name_of(get_model(twin)), None, seed)
                yield from (Run(twin, bits, seed) for bits in self.bits)

    @property
    def detect_anomaly(self) -> bool:
        """Whether stock models train in autograd's anomaly mode; not unless it is asked for."""
        return read_literal(read_arguments(self.argv).get("detect_anomaly", "False")) is True

    def arguments(self, run: Run) -> list[str]:
        """The parameters of a run, `--key=value`; a stock model runs without anomaly mode."""
        given = [a for a in meant_for(run.model, self.argv) if _key(a) not in _PER_RUN]
        own: dict[str, Any] = {
            "seed": run.seed,
            "show_progress": False,
            "run_name": run.name,
            "checkpoint_dir": "saved",
            "data_path": self._data_path(),
        }
        if run.bits is not None:
            own["compress_bits"] = run.bits
        elif "detect_anomaly" not in map(_key, given):
            own["detect_anomaly"] = self.detect_anomaly
        return [*given, *(f"--{key}={value!r}" for key, value in own.items())]

    def config(self, run: Run) -> Config:
        """The configuration of a run.

        Raises:
            ConfigurationError: A key or value that cannot be used.
        """
        return Config(run.model, self.dataset, self.config_files, argv=self.arguments(run))

    def check(self) -> None:
        """Refuse, before anything is trained, what a run could not begin with.

        Raises:
            ConfigurationError: A key, a value or a missing data set.
        """
        for run in self.runs():
            if run.seed == self.seeds[0]:
                config = self.config(run)
                if config["epochs"] < 1:
                    raise ConfigurationError(
                        "compare needs epochs >= 1, for it compares what training gives and "
                        f"costs; got epochs {config['epochs']}"
                    )
                check_dataset(config)

    def _data_path(self) -> str:
        argv = meant_for(self.twins[0], self.argv)
        plain = Config(self.twins[0], self.dataset, self.config_files, argv=argv).to_plain()
        return os.path.abspath(plain["data_path"])


def read_request(flags: Mapping[str, str], argv: Sequence[str]) -> Request:
    """Read the flags of the command.

    Args:
        flags: `model`, `model_list`, `dataset`, `config_files`, `bits`, `seeds`.
        argv: `--key=value` of everything else.

    Raises:
        ConfigurationError: A flag or a parameter that a comparison cannot use.
    """
    if {"model", "model_list"} <= flags.keys():
        raise ConfigurationError("--model_list must come without --model; got both")
    given = read_arguments(argv)
    for key in _OURS.keys() & given.keys():
        raise ConfigurationError(f"--{key} must be left out of a comparison: {_OURS[key]}")
    files = [os.path.abspath(file) for file in flags.get("config_files", "").split()]
    twins = tuple(dict.fromkeys(chosen_models(flags, files)))
    for name in twins:
        _check_twin(name)
    dataset = chosen_name("dataset", flags, files)
    first = Config(twins[0], dataset, files, argv=meant_for(twins[0], argv))["seed"]
    seeds = _seeds(flags.get("seeds", str(_DEFAULT_SEEDS)), first, "seed" in given)
    bits = _bits(flags["bits"]) if "bits" in flags else _DEFAULT_BITS
    return Request(twins, dataset, bits, seeds, tuple(files), tuple(argv))


def _check_twin(name: str) -> None:
    if name not in MODELS:
        near = difflib.get_close_matches(f"Tiny{name}", MODELS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigurationError(
            "--model must be a Tiny model, which is compared with the model it replaces: one of "
            f"{', '.join(MODELS)}; got {name!r}{hint}"
        )


def _bits(text: str) -> tuple[int, ...]:
    bits = _integers(text)
    if not bits or not set(bits) <= {*BITS}:
        raise ConfigurationError(
            f"--bits must be one or several of {', '.join(map(str, BITS))}, such as --bits=8,2; "
            f"got {text!r}"
        )
    return bits


def _seeds(text: str, first: int, has_seed: bool) -> tuple[int, ...]:
    """Read `5` as five seeds from `first` on, and `2020,7` or `[7]` as those seeds."""
    seeds = _integers(text)
    if seeds is None or min(seeds, default=-1) < 0 or seeds == (0,):
        raise ConfigurationError(
            "--seeds must be the number of seeds, 1 or more, or a list of them such as "
            f"--seeds=2020,7; got {text!r}"
        )
    if isinstance(read_literal(text), int):
        return tuple(range(first, first + seeds[0]))
    if has_seed:
        raise ConfigurationError("--seeds lists the seeds; got --seed too: leave it out")
    return seeds


def _integers(text: str) -> tuple[int, ...] | None:
    value = read_literal(text)
    values = value if isinstance(value, list | tuple) else (value,)
    whole = all(type(v) is int for v in values)
    return tuple(dict.fromkeys(values)) if whole else None


def _key(argument: str) -> str:
    return argument.removeprefix("--").partition("=")[0]
