"""Which runs a comparison is made of, and the arguments of each.

Seed by seed, stock and then its twin at each bit width: whenever a comparison is interrupted,
the seeds so far are complete pairs. RecBole splits, initialises and samples by the seed, so that
the runs of a seed have the same splits, the same initial weights and the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recbole_tinykg.commands.flags import as_arguments, as_bits, parameters_for
from recbole_tinykg.config import Config
from recbole_tinykg.config.own_keys import check_dataset
from recbole_tinykg.config.parameters import read_literal
from recbole_tinykg.errors import ConfigurationError, did_you_mean
from recbole_tinykg.model import MODELS, get_model, stock_name_of
from recbole_tinykg.model.checks import is_integer, is_positive

_OURS = {  # parameters that a comparison sets itself
    "compress_bits": "give --bits, such as --bits=8,2",
    "compress_budget": "the bits that are compared are those of --bits",
    "compressed_saves": "the stock model is what the twins are compared with",
    "run_name": "every run gets a name of its own",
    "checkpoint_dir": "give --output, the folder of the whole comparison",
    "nproc": "runs are made one after another",
}


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
        parameters: Parameters of every run.
    """

    twins: tuple[str, ...]
    dataset: str
    bits: tuple[int, ...]
    seeds: tuple[int, ...]
    config_files: tuple[str, ...]
    parameters: Mapping[str, Any]

    def runs(self) -> Iterator[Run]:
        """Yield every run, in the order in which they are made."""
        for seed in self.seeds:
            for twin in self.twins:
                yield Run(stock_name_of(get_model(twin)), None, seed)
                yield from (Run(twin, bits, seed) for bits in self.bits)

    @property
    def detect_anomaly(self) -> bool:
        """Whether stock models train in autograd's anomaly mode: only if it is asked for."""
        return read_literal(self.parameters.get("detect_anomaly")) is True

    def arguments(self, run: Run) -> list[str]:
        """Return the parameters of a run, `--key=value`; a stock model has no anomaly mode."""
        given = parameters_for(run.model, self.parameters)
        own = {
            "seed": run.seed,
            "show_progress": False,
            "run_name": run.name,
            "checkpoint_dir": "saved",
            "data_path": os.path.abspath(self.configured("data_path")),
        }
        if run.bits is None:
            own["detect_anomaly"] = given.get("detect_anomaly", False)
        else:
            own["compress_bits"] = run.bits
        return as_arguments({**given, **own})

    def configured(self, key: str) -> Any:
        """Return what files and parameters say of a key that all runs share."""
        argv = as_arguments(parameters_for(self.twins[0], self.parameters))
        return Config(self.twins[0], self.dataset, self.config_files, argv=argv).to_plain()[key]

    def config(self, run: Run) -> Config:
        """Return the configuration of a run.

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


def make_request(
    twins: Sequence[str],
    dataset: str,
    bits: Sequence[int],
    seeds: int | Sequence[int],
    config_files: Sequence[str | os.PathLike[str]] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Request:
    """Check what is to be compared.

    Args:
        twins: Class names.
        dataset: Name of the data set.
        bits: Bit widths of the twins.
        seeds: Number of seeds, from the configuration's on, or the seeds.
        config_files: YAML files of parameters.
        parameters: Parameters of every run, which win over the files.

    Raises:
        ConfigurationError: Something that a comparison cannot use.
    """
    given = dict(parameters or {})
    for key in _OURS.keys() & given.keys():
        raise ConfigurationError(f"--{key} must be left out of a comparison: {_OURS[key]}")
    names = tuple(dict.fromkeys(twins))
    for name in names:
        if name not in MODELS:
            near = did_you_mean(f"Tiny{name}", MODELS)
            hint = f"; {near}" if near else ""
            raise ConfigurationError(
                "--model must be a Tiny model, which is compared with the model it replaces: one "
                f"of {', '.join(MODELS)}; got {name!r}{hint}"
            )
    files = tuple(os.path.abspath(file) for file in config_files)
    widths = tuple(dict.fromkeys(as_bits(bits)))
    request = Request(names, dataset, widths, (), files, given)
    return replace(request, seeds=_seeds(seeds, request.configured("seed"), "seed" in given))


def _seeds(seeds: int | Sequence[int], first: int, has_seed: bool) -> tuple[int, ...]:
    """Return as many seeds as a number says, from `first` on, or the listed seeds."""
    if isinstance(seeds, int) and is_positive(seeds):
        return tuple(range(first, first + seeds))
    listed = seeds if isinstance(seeds, Sequence) else ()
    if not listed or not all(is_integer(seed) and seed >= 0 for seed in listed):
        raise ConfigurationError(
            "--seeds must be the number of seeds, 1 or more, or a list of them such as "
            f"--seeds=2020,7; got {seeds!r}"
        )
    if has_seed:
        raise ConfigurationError("--seeds lists the seeds; got --seed too: leave it out")
    return tuple(dict.fromkeys(listed))
