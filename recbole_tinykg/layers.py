"""Modules over the compressed functions: parameters of a layer, noise stream of a model.

They hold no activations and know nothing about recommenders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tinykg.functional.lookup import SharedTable


class CrossCompress(nn.Module):
    r"""MKR's cross & compress unit, without the product of every row with itself.

    The unit compresses :math:`C = v e^\top` of each row, D x D floats, to
    :math:`v' = C w_{vv} + C^\top w_{ev} + b` and likewise e'. But :math:`C w = v (e \cdot w)`:

    .. math::
        v' = v (e \cdot w_{vv}) + e (v \cdot w_{ev}) + b_{vv} + b_{ev}, \quad
        e' = v (e \cdot w_{ve}) + e (v \cdot w_{ee}) + b_{ve} + b_{ee}

    Args:
        unit: The module with the linear layers `fc_vv`, `fc_ev`, `fc_ve`, `fc_ee`.
    """

    fc_vv: nn.Linear
    fc_ev: nn.Linear
    fc_ve: nn.Linear
    fc_ee: nn.Linear

    def __init__(self, unit: nn.Module) -> None:
        """Take the layers."""
        super().__init__()
        for name in ("fc_vv", "fc_ev", "fc_ve", "fc_ee"):
            self.add_module(name, unit.get_submodule(name))

    def forward(self, pair: list[Tensor]) -> tuple[Tensor, Tensor]:  # (N, D) each
        """Both outputs, v' and e', of a pair [v, e]."""
        return (
            self._compress(pair, self.fc_vv, self.fc_ev),
            self._compress(pair, self.fc_ve, self.fc_ee),
        )

    @staticmethod
    def _compress(pair: list[Tensor], along_v: nn.Linear, along_e: nn.Linear) -> Tensor:  # (N, D)
        v, e = pair
        bias = along_v.bias + along_e.bias
        return v * F.linear(e, along_v.weight) + e * F.linear(v, along_e.weight) + bias


class TableEmbedding(nn.Embedding):
    """An embedding whose lookups in a `shared_gradients` block have one gradient map.

    Args:
        embedding: What it takes the place of; its parameter becomes this one's.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        """Take the parameter."""
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, device="meta")
        self.weight = embedding.weight
        self.table: SharedTable | None = None

    def forward(self, index: Tensor) -> Tensor:  # (*index.shape, D)
        """Rows of the table."""
        return super().forward(index) if self.table is None else self.table.rows(index)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is an embedding with a dense gradient and nothing special about it."""
        return (
            type(module) is nn.Embedding
            and not (module.sparse or module.scale_grad_by_freq)
            and module.max_norm is None
            and module.padding_idx is None
        )


@contextmanager
def shared_gradients(model: nn.Module) -> Iterator[None]:
    """What the model's `TableEmbedding`s look up in the block has one gradient map per table."""
    embeddings = [m for m in model.modules() if isinstance(m, TableEmbedding)]
    for embedding in embeddings:
        if torch.is_grad_enabled() and embedding.weight.requires_grad:
            embedding.table = SharedTable(embedding.weight)
    try:
        yield
    finally:
        for embedding in embeddings:
            embedding.table = None


class GraphLayer(nn.Module):
    """The linear layers of one KGAT aggregator, named and created as in RecBole's `Aggregator`.

    Args:
        input_dim: D, columns of the ego embeddings.
        output_dim: D', columns of the output.
        aggregator: `bi`, `gcn` or `graphsage`.
    """

    def __init__(self, input_dim: int, output_dim: int, aggregator: str) -> None:
        """Create the linear layers in RecBole's order, so that a seed gives the same weights."""
        super().__init__()
        if aggregator == "bi":
            self.W1 = nn.Linear(input_dim, output_dim)
            self.W2 = nn.Linear(input_dim, output_dim)
        else:
            self.W = nn.Linear(input_dim * (2 if aggregator == "graphsage" else 1), output_dim)

    def weights(self) -> tuple[Tensor, ...]:
        """Weight and bias of each linear layer, as `functional.propagate` takes them."""
        return tuple(self.parameters())


class NoiseStreams(nn.Module):
    """Positions (seed, step, site) in the counter-based random stream of a model.

    Every place that draws noise in a step is a site; a step has 2**16 of them. The step is a tensor
    on the model's device, so no call waits for it, and a position is data: drawing again at the
    same one gives the same noise.

    Args:
        seed: seed of the stream, any 64-bit integer.
        num_sites: sites of one step.
    """

    SITE_BITS = 16
    sites: Tensor  # (num_sites, 2) int64: seed and site
    position: Tensor  # (2,) int64: 0 and step * 2**SITE_BITS

    def __init__(self, seed: int, num_sites: int) -> None:
        """Start at step 0."""
        super().__init__()
        sites = torch.stack([torch.full((num_sites,), seed), torch.arange(num_sites)], dim=1)
        self.register_buffer("sites", sites, persistent=False)
        self.register_buffer("position", torch.zeros(2, dtype=torch.int64), persistent=False)

    def current(self) -> Tensor:
        """Streams (num_sites, 2) int64 of the present step."""
        return self.sites + self.position

    def advance(self) -> Tensor:
        """Go to the next step and return its streams."""
        self.position[1].add_(1 << self.SITE_BITS)
        return self.current()

    @contextmanager
    def redrawn(self, site: int) -> Iterator[None]:
        """In a `with` block a site draws other noise than in any step, the others the same."""
        sites = self.sites
        self.sites = sites.clone()
        self.sites[site, 1] += 1 << (self.SITE_BITS - 1)
        try:
            yield
        finally:
            self.sites = sites

    @property
    def step(self) -> int:
        """Number of steps taken; reading it waits for the device."""
        return int(self.position[1]) >> self.SITE_BITS

    @step.setter
    def step(self, value: int) -> None:
        self.position[1].fill_(value << self.SITE_BITS)
