"""A twin and its stock model on two data sets: what the tests of a model are about.

`conformance.py` has the tests, a model's test file the facts: a subclass of a few lines.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState, init_seed

from helpers.datasets import write_tiny_dataset
from recbole_tinykg.config import Config
from recbole_tinykg.model import get_model
from recbole_tinykg.quick_start import prepare

QUIET = {"state": "ERROR", "gpu_id": "", "show_progress": False}
BATCH_ROWS = {"ml-100k": 2048, "tiny": 64}
SCORED_PAIRS = {"ml-100k": 8, "tiny": 40}


class TwinCase:
    """One twin: its name, its configurations, and models and batches of it."""

    twin: ClassVar[str]
    variants: ClassVar[list[dict[str, Any]]] = [{}]
    """Configurations in which the twin is compared with its stock model."""
    noisy: ClassVar[list[dict[str, Any]] | None] = None
    """Those in which the gradient's mean is proved exact, if not all: each takes seconds."""
    small: ClassVar[dict[str, Any]] = {"embedding_size": 8}
    """Configuration on the tiny data set, over the defaults."""
    large: ClassVar[dict[str, Any]] = {}
    """Configuration on ml-100k, over the defaults."""
    losses: ClassVar[dict[str, KGDataLoaderState]] = {"calculate_loss": KGDataLoaderState.RS}
    """Loss functions, and what RecBole's loader feeds each."""
    scores: ClassVar[tuple[str, ...]] = ("predict", "full_sort_predict")
    """What scores there are."""
    refused: ClassVar[list[tuple[str, Any]]] = []
    """Keys and values that cannot describe the stock model."""
    checkerboard: ClassVar[dict[str, Any]] = {}
    """Configuration in which the twin finds the held-out items."""
    checkerboard_hits: ClassVar[float] = 1.0
    """Share of the held-out items that it finds, where chance finds one of twenty."""
    fewer_bytes: ClassVar[float]
    """How many times fewer bytes than stock a step keeps at 2 bits on ml-100k."""

    @property
    def stock_name(self) -> str:
        """Name of RecBole's class."""
        return self.twin.removeprefix("Tiny")

    def share(self, stock: Any, twin: Any) -> None:
        """Give the twin what stock drew besides its weights, such as sampled neighbours."""

    def convert(self, stock: Any, dtype: torch.dtype) -> None:
        """Convert what `stock.to(dtype)` leaves as it is."""

    def draw_alike(self) -> None:
        """Make the next step of stock and of the twin draw the same, if both draw."""

    def settings(self, dataset: str, **changes: Any) -> dict[str, Any]:
        """Parameters on a data set."""
        own = {**self.small, "data_path": tiny_folder()} if dataset == "tiny" else self.large
        return {**QUIET, "train_batch_size": BATCH_ROWS[dataset], **own, **changes}

    def build(self, name: str, dataset: str, **changes: Any) -> Any:
        """A model with the initial weights of seed 2020."""
        settings = self.settings(dataset, **changes)
        if not name.startswith("Tiny"):
            settings = {k: v for k, v in settings.items() if not k.startswith("compress")}
        config = Config(name, dataset, config_dict=settings)
        split, _ = self.data(dataset)
        init_seed(2020, True)
        return get_model(name)(config, split)

    def pair(self, dataset: str, **changes: Any) -> tuple[Any, Any]:
        """Stock model and uncompressed twin with the same weights."""
        stock = self.build(self.stock_name, dataset, **changes)
        twin = self.build(self.twin, dataset, compress_bits=32, **changes)
        self.share(stock, twin)
        return stock, twin

    def data(self, dataset: str) -> tuple[Any, dict[str, Interaction]]:
        """Training split, and a batch for each loss."""
        return load(self.stock_name, dataset, json.dumps(self.settings(dataset)), **self.losses)

    def scored_pairs(self, dataset: str) -> Interaction:
        """Users and items to score, of those that training has seen; few, stock takes its time."""
        split, _ = self.data(dataset)
        number = SCORED_PAIRS[dataset]
        step = max(1, len(split.inter_feat) // number)
        columns = (split.uid_field, split.iid_field)
        return Interaction({c: split.inter_feat[c][::step][:number].clone() for c in columns})

    def trained(self, settings: dict[str, Any]) -> Any:
        experiment = prepare(self.twin, "tiny", config_dict=settings)
        experiment.trainer.fit(experiment.train_data, experiment.valid_data)
        return experiment


@functools.cache
def tiny_folder() -> str:
    """The folder above the generated data set `tiny`, one per process."""
    return str(write_tiny_dataset(Path(tempfile.mkdtemp(prefix="recbole-tinykg-"))))


@functools.cache
def load(stock_name: str, dataset: str, settings: str, **losses: KGDataLoaderState) -> Any:
    """Training split, and a batch for each loss, as RecBole draws them for the stock model."""
    experiment = prepare(stock_name, dataset, config_dict=json.loads(settings))
    batches = {}
    for loss, state in losses.items():
        experiment.train_data.set_mode(state)
        batches[loss] = next(iter(experiment.train_data))
    return experiment.train_data._dataset, batches


def total(losses: Any) -> torch.Tensor:
    """A loss, or the sum of several, as a scalar."""
    return sum(losses).squeeze() if isinstance(losses, tuple) else losses.squeeze()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference, relative to that of b."""
    return float(((a - b).norm() / b.norm()).detach())


class default_dtype:  # noqa: N801 - used like torch.no_grad
    """Creates tensors in `dtype` in a `with` block."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.previous)
