"""What every twin has: a quantizer, a noise stream, and a cache that evaluation fills.

A twin is a `KnowledgeRecommender` with the parameters of its stock model: same names, same shapes,
same initial values for a seed, so that weights go back and forth. `docs/adding_a_model.md` shows
how one is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar

from recbole.model.abstract_recommender import KnowledgeRecommender

from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.quantization import NoiseStreams, Quantizer
from recbole_tinykg.quantization.quantizer import Quantizers, SiteQuantizers

T = TypeVar("T")


class Twin(KnowledgeRecommender):
    """Base of the twins; a subclass names its stock model and creates parameters in its order.

    Args:
        config: RecBole configuration of the stock model plus the `compress_*` keys.
        dataset: training split of a RecBole knowledge-based dataset.
    """

    stock_name: ClassVar[str]
    chooses_bits: ClassVar[bool] = True  # whether `stored_maps` names what a step keeps

    def __init__(self, config: Any, dataset: Any) -> None:
        """Check the configuration, then prepare quantizer and noise; no parameter yet."""
        self.check_config(config)
        super().__init__(config, dataset)
        self._uniform = Quantizer(config["compress_bits"], config["compress_rounding"])
        self.quantizer: Quantizers = self._uniform
        self.map_sites = self.stored_maps(config)
        self.map_bits: dict[str, int] = {}
        seed = config["compress_seed"]
        self.streams = NoiseStreams(
            config["seed"] if seed is None else seed, self.count_sites(config)
        )
        self._cache: Any = None  # of evaluation
        self.register_load_state_dict_post_hook(_forget)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe the stock model."""
        raise NotImplementedError

    @classmethod
    def count_sites(cls, config: Any) -> int:
        """Number of places of a step that draw noise."""
        raise NotImplementedError

    @classmethod
    def stored_maps(cls, config: Any) -> dict[str, int]:
        """Name of each matrix that a step keeps as codes, and the site of its noise."""
        return {}

    def choose_bits(self, bits: Mapping[str, int]) -> None:
        """Keep each stored map at bits of its own; nothing chosen: all at `compress_bits`.

        Raises:
            CheckpointError: The names are not those of `map_sites`.
        """
        if bits and bits.keys() != self.map_sites.keys():
            raise CheckpointError(
                f"bits must be given for the maps {', '.join(self.map_sites) or 'none'} of "
                f"{type(self).__name__}; got {', '.join(bits)}"
            )
        self.quantizer = self.quantizers_of(bits) if bits else self._uniform
        self.map_bits = dict(bits)

    def quantizers_of(self, bits: Mapping[str, int]) -> SiteQuantizers:
        """The quantizer of each site, from the bits of each stored map."""
        quantizers = [self._uniform] * len(self.streams.sites)
        for name, site in self.map_sites.items():
            quantizers[site] = replace(self._uniform, bits=bits[name])
        return SiteQuantizers(tuple(quantizers))

    @contextmanager
    def compression(self, bits: int | Quantizers) -> Iterator[None]:
        """Keep activations at `bits`, or as they say, in a `with` block; no noise is used up."""
        quantizer, position = self.quantizer, self.streams.position.clone()
        self.quantizer = replace(self._uniform, bits=bits) if isinstance(bits, int) else bits
        try:
            yield
        finally:
            self.quantizer = quantizer
            self.streams.position.copy_(position)

    def other_parameter(self) -> dict[str, Any]:
        """State outside `state_dict`: how many steps have drawn noise; bits chosen for maps."""
        return {"compression_step": self.streams.step, "map_bits": self.map_bits}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Take the state of `other_parameter`, the stock model's or ours."""
        self._forget()
        if para and "compression_step" in para:
            self.streams.step = para["compression_step"]
        if para and "map_bits" in para:
            self.choose_bits(para["map_bits"])

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; what evaluation had cached is dropped."""
        self._forget()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """Behind `to`, `double`, `cuda` and their like; what evaluation had cached is dropped."""
        self._forget()
        return super()._apply(*args, **kwargs)

    def _cached(self, compute: Callable[[], T]) -> T:
        """What evaluation computes once for the weights of the moment; not kept in training."""
        if self.training:
            return compute()
        weights = tuple((p._version, p.data_ptr()) for p in self.parameters())
        if self._cache is None or self._cache[0] != weights:
            self._cache = weights, compute()
        return self._cache[1]

    def _forget(self) -> None:
        self._cache = None


def _forget(twin: Twin, _: Any) -> None:
    """Hook of `load_state_dict`."""
    twin._forget()
