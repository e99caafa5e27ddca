"""Which models, data and settings the suite measures, and how each is built.

Defaults are RecBole's. Exceptions are said in a case's note, which the tables print: MCCLK takes
minutes and gigabytes for a step on all of ml-100k; RippleNet's epoch takes stock seven minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from recbole.utils import KGDataLoaderState, init_seed

from benchmarks.suite.variants import VARIANTS, Variant
from benchmarks.synthetic_data.array_loader import array_loader
from recbole_tinykg.config import Config
from recbole_tinykg.model import get_model
from recbole_tinykg.quick_start import Experiment, prepare

RS, KG, RSKG = KGDataLoaderState.RS, KGDataLoaderState.KG, KGDataLoaderState.RSKG


GPU_BATCHES = 32  # of arrays


@dataclass(frozen=True)
class Case:
    """A twin and its stock model, on data, with settings."""

    name: str  # of the results' files
    twin: str
    settings: dict[str, Any] = field(default_factory=dict)
    dataset: str = "ml-100k"
    arrays: str = ""  # size of a synthetic data set in memory, in place of RecBole's loader
    note: str = ""
    phases: dict[str, tuple[Any, str]] = field(
        default_factory=lambda: {"rs": (RS, "calculate_loss"), "kg": (KG, "calculate_kg_loss")}
    )  # the loader's state and the loss that a trainer asks for; some models have one loss
    epochs: tuple[int, ...] = (0,)  # the epochs that make a whole of all phases
    batches: int | None = None  # of a phase that are timed; None: a whole epoch
    rounds: int = 3  # timed, after a warm-up
    slow_evaluation: bool = False  # stock and INT2 evaluate once, in the first round
    extra_variants: tuple[str, ...] = ()

    def on_gpu(self) -> Case:
        """Return the case with as many batches as a GPU takes in seconds: an epoch of ml-100k."""
        return replace(self, batches=GPU_BATCHES if self.arrays else None)

    def on_data(self, dataset: str, folder: str) -> Case:
        """Return the case with other data, as RecBole's files in a folder."""
        settings = {**self.settings, "data_path": folder}
        return replace(self, dataset=dataset, settings=settings, arrays="", batches=None)

    @property
    def stock_name(self) -> str:
        """Name of the stock model."""
        return get_model(self.twin).stock_name

    def given(self, variant: Variant, device: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and parameters of a variant's model."""
        given = {**self.settings, **variant.settings, **device}
        given |= {"state": "ERROR", "show_progress": False}
        if variant.bits is None:
            return self.stock_name, given
        return self.twin, {**given, "compress_bits": variant.bits}


class Models:
    """A case's models: the stock model, which its variants share, and one for each other variant.

    Data are loaded once for the stock model, once for the twins, and for each variant with
    parameters of its own.
    """

    def __init__(self, case: Case, device: dict[str, Any]) -> None:
        """Build nothing yet."""
        self._case, self._device = case, device
        self._first: dict[bool, Experiment] = {}  # of stock, of the twin
        self._built: dict[str, Experiment] = {}

    def of(self, variant: Variant) -> Experiment:
        """Return the model of a variant, with trainer and data."""
        if not variant.owns_model:
            variant = VARIANTS["stock"]
        if variant.key not in self._built:
            first = None if variant.settings else self._first.get(variant.is_stock)
            built = self._beside(first, variant) if first else self._build(variant)
            if not variant.settings:
                self._first.setdefault(variant.is_stock, built)
            self._built[variant.key] = built
        return self._built[variant.key]

    def _build(self, variant: Variant) -> Experiment:
        if self._case.arrays:
            loader = array_loader(self._case.arrays)
            return self._beside(Experiment(None, None, loader, None, None, None), variant)
        name, given = self._case.given(variant, self._device)
        return prepare(name, self._case.dataset, config_dict=given)

    def _beside(self, first: Experiment, variant: Variant) -> Experiment:
        name, given = self._case.given(variant, self._device)
        config = Config(name, self._case.dataset, config_dict=given)
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(name)(config, first.train_data._dataset).to(config["device"])
        return replace(first, config=config, model=model)


UNREAD = ("skip", "tiny2-skip")
JOINT = {"rs": (RSKG, "calculate_loss")}
CASES = [
    Case("TinyKGAT", "TinyKGAT", extra_variants=("anomaly",)),
    Case("TinyKGAT-64-32-16", "TinyKGAT", {"layers": [64, 32, 16]}, batches=10),
    Case("TinyKGCN", "TinyKGCN", rounds=5, extra_variants=UNREAD),
    Case("TinyKGNNLS", "TinyKGNNLS", rounds=5, extra_variants=UNREAD),
    Case("TinyRippleNet", "TinyRippleNet", batches=1, extra_variants=UNREAD),
    Case("TinyKGIN", "TinyKGIN", extra_variants=UNREAD),
    Case("TinyCKE", "TinyCKE", phases=JOINT, batches=10),
    Case("TinyCFKG", "TinyCFKG", phases=JOINT, rounds=5, batches=20),
    Case(
        "TinyKTUP",
        "TinyKTUP",
        epochs=(0, 5),
        batches=10,
        note="KTUP trains five epochs on interactions, then five on triples: one of each is timed.",
    ),
    Case(
        "TinyMKR",
        "TinyMKR",
        batches=5,
        phases={"rs": (RS, "calculate_rs_loss"), "kg": (KG, "calculate_kg_loss")},
        slow_evaluation=True,
        note="MKR trains on triples in every third epoch: such an epoch is timed. Stock and INT2 "
        "evaluate once.",
    ),
    Case(
        "TinyMCCLK",
        "TinyMCCLK",
        {"entity_kg_num_interval": "[20,inf)", "train_batch_size": 512},
        batches=2,
        note="Entities with 20 triples or more, batches of 512.",
    ),
    Case(
        "TinyKGAT-amazon-book",
        "TinyKGAT",
        {"layers": [64, 32, 16]},
        dataset="arrays",
        arrays="amazon-book",
        batches=1,
        note="Synthetic, Amazon-Book's size, `kg_reverse_r` True; batches drawn beforehand.",
    ),
]


def select_cases(names: Iterable[str]) -> list[Case]:
    """Return the cases of these names, or of these twins; all without a name.

    Raises:
        SystemExit: There is no such case.
    """
    names = set(names)
    if unknown := names - {case.name for case in CASES} - {case.twin for case in CASES}:
        every = ", ".join(case.name for case in CASES)
        raise SystemExit(f"--models must be of {every}; got {', '.join(sorted(unknown))}")
    return [case for case in CASES if not names or {case.name, case.twin} & names]
