"""The base of the twins: sites with their quantizers and noise, and a cache for evaluation.

A twin is a `KnowledgeRecommender` with the parameters of its stock model: same names, same shapes,
same initial values for a seed, so that weights can go either way. `docs/adding_a_model.md` shows
how to write one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar

from recbole.model.abstract_recommender import KnowledgeRecommender

from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.quantization import NoiseStreams, Quantizer, Sites, StepSites

T = TypeVar("T")


class Twin(KnowledgeRecommender):
    """Base of the twins; a subclass names its stock model and creates parameters in its order.

    Args:
        config: RecBole configuration of the stock model plus the `compress_*` keys.
        dataset: training split of a RecBole knowledge-based dataset.

    Attributes:
        quantizer: How maps are stored unless bits are chosen for each.
        site_table: The quantizer of every site.
        map_sites: Number of the site of each stored map, by its name.
        map_bits: Bits chosen for each stored map; empty: none chosen.
        streams: The noise of every site.
    """

    stock_name: ClassVar[str]
    chooses_bits: ClassVar[bool] = True  # whether `name_sites` names the maps that a step stores
    has_static_step: ClassVar[bool] = False  # whether a step heeds `static_shapes`

    def __init__(self, config: Any, dataset: Any) -> None:
        """Check the configuration, then prepare sites and noise; no parameter yet."""
        self.check_config(config)
        super().__init__(config, dataset)
        self.quantizer = Quantizer(config["compress_bits"], config["compress_rounding"])
        self._sites = self.name_sites(config)
        self.site_table = self._sites.table(self.quantizer)
        self.map_sites = self._sites.stored
        self.map_bits: dict[str, int] = {}
        seed = config["compress_seed"]
        self.streams = NoiseStreams(config["seed"] if seed is None else seed, len(self._sites))
        self._cache: Any = None  # of evaluation
        self._static_shapes: bool | None = None
        self.register_load_state_dict_post_hook(_forget)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe the stock model."""
        raise NotImplementedError

    @classmethod
    def name_sites(cls, config: Any) -> Sites:
        """Return the sites of a step, in an order that checkpoints rely on; here none."""
        return Sites()

    @property
    def static_shapes(self) -> bool:
        """Whether shapes in a step follow from the batch's alone; unless set: on a GPU.

        Then a step reads nothing back from the device and can be replayed as a CUDA graph.
        """
        if self._static_shapes is None:
            return self.has_static_step and self.streams.position.is_cuda
        return self._static_shapes

    @static_shapes.setter
    def static_shapes(self, value: bool) -> None:
        self._static_shapes = value

    def current_sites(self) -> StepSites:
        """Return the sites of the current step."""
        return self.site_table.at(self.streams.current())

    def next_sites(self) -> StepSites:
        """Go to the next step and return its sites."""
        return self.site_table.at(self.streams.advance())

    def choose_bits(self, bits: Mapping[str, int]) -> None:
        """Store each map at bits of its own; empty: all at `compress_bits`.

        Raises:
            CheckpointError: The names are not those of `map_sites`.
        """
        if bits and bits.keys() != self.map_sites.keys():
            raise CheckpointError(
                f"bits must be given for the maps {', '.join(self.map_sites) or 'none'} of "
                f"{type(self).__name__}; got {', '.join(bits)}"
            )
        self.site_table = self._sites.table(self.quantizer, bits)
        self.map_bits = dict(bits)

    @contextmanager
    def compression(self, bits: int | Mapping[str, int | Quantizer]) -> Iterator[None]:
        """Store maps with other bits in a `with` block, without using up noise.

        Args:
            bits: For all maps; or bits, or a quantizer, for each stored map by its name.
        """
        table, position = self.site_table, self.streams.position.clone()
        if isinstance(bits, int):
            self.site_table = self._sites.table(replace(self.quantizer, bits=bits))
        else:
            self.site_table = self._sites.table(self.quantizer, bits)
        try:
            yield
        finally:
            self.site_table = table
            self.streams.position.copy_(position)

    def other_parameter(self) -> dict[str, Any]:
        """Return state outside `state_dict`: the noise step, and the bits chosen for maps."""
        return {"compression_step": self.streams.step, "map_bits": self.map_bits}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Load the state of `other_parameter`, the stock model's or ours."""
        self._forget()
        if para and "compression_step" in para:
            self.streams.step = para["compression_step"]
        if para and "map_bits" in para:
            self.choose_bits(para["map_bits"])

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation, and drop what evaluation has cached."""
        self._forget()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Convert as `to`, `double` or `cuda` ask, and drop what evaluation has cached."""
        self._forget()
        return super()._apply(*args, **kwargs)

    def _cached(self, compute: Callable[[], T]) -> T:
        """Return what evaluation computes once for the current weights; training caches nothing."""
        if self.training:
            return compute()
        weights = tuple((p._version, p.data_ptr()) for p in self.parameters())
        if self._cache is None or self._cache[0] != weights:
            self._cache = weights, compute()
        return self._cache[1]

    def _forget(self) -> None:
        self._cache = None


def _forget(twin: Twin, _: Any) -> None:
    """Drop the cache; a hook of `load_state_dict`."""
    twin._forget()
