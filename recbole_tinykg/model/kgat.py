r"""TinyKGAT: RecBole's KGAT, exact in the forward pass, with low-bit activations for backward.

KGAT (Wang et al., KDD 2019) propagates embeddings over the collaborative knowledge graph with an
attention matrix that is refreshed once per epoch. Parameters, their names, their initial values for
a seed, losses and scores are RecBole's. What differs is what a step keeps and computes:

* `functional.propagate` keeps codes and sign masks instead of float maps, and computes the last
  layer only for the rows of the batch;
* `functional.bpr_loss` gathers the batch's unique rows before it normalises and concatenates;
* `functional.transr_loss` multiplies by each relation's matrix once instead of gathering one per
  triple;
* the attention matrix is CSR (`graph.AttentionGraph`), saved and loaded with the model.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from recbole.model.init import xavier_normal_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.functional import Propagation, bpr_loss, normalized_rows, propagate, transr_loss
from recbole_tinykg.functional.kgat.propagation import SITES_PER_LAYER
from recbole_tinykg.graph.attention import AttentionGraph
from recbole_tinykg.graph.from_recbole import collaborative_edges
from recbole_tinykg.graph.node_rows import NodeRows
from recbole_tinykg.model.checks import (
    check_choice,
    check_positive,
    check_rate,
    check_weight,
    is_positive,
)
from recbole_tinykg.model.twin import Twin

AGGREGATOR_TYPES = ("gcn", "graphsage", "bi")


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


class TinyKGAT(Twin):
    """KGAT's twin; trains with RecBole's `KGATTrainer`."""

    stock_name = "KGAT"
    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the graph, then the parameters in RecBole's order."""
        super().__init__(config, dataset)
        self.embedding_size = config["embedding_size"]
        self.kg_embedding_size = config["kg_embedding_size"]
        self.layers = [self.embedding_size, *config["layers"]]
        self.aggregator_type = config["aggregator_type"]
        self.mess_dropout = config["mess_dropout"]
        self.reg_weight = config["reg_weight"]

        self.user_embedding = nn.Embedding(self.n_users, self.embedding_size)
        self.entity_embedding = nn.Embedding(self.n_entities, self.embedding_size)
        self.relation_embedding = nn.Embedding(self.n_relations, self.kg_embedding_size)
        self.trans_w = nn.Embedding(self.n_relations, self.embedding_size * self.kg_embedding_size)
        self.aggregator_layers = nn.ModuleList(
            GraphLayer(input_dim, output_dim, self.aggregator_type)
            for input_dim, output_dim in zip(self.layers[:-1], self.layers[1:], strict=True)
        )
        self.apply(xavier_normal_initialization)

        self.graph = AttentionGraph(collaborative_edges(dataset), (self.n_users, self.n_entities))

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a KGAT."""
        layers = config["layers"]
        if not isinstance(layers, list) or not layers or not all(is_positive(d) for d in layers):
            raise ConfigurationError(
                f"layers must be a non-empty list of positive integers such as [64, 32]; "
                f"got {layers!r}"
            )
        check_positive(config, "embedding_size", "kg_embedding_size")
        check_choice(config, "aggregator_type", AGGREGATOR_TYPES)
        check_rate(config, "mess_dropout")
        check_weight(config, "reg_weight")

    @classmethod
    def count_sites(cls, config: Any) -> int:
        """One for the head of each layer, then those of `propagate`."""
        return len(config["layers"]) * (SITES_PER_LAYER + 1)

    @classmethod
    def stored_maps(cls, config: Any) -> dict[str, int]:
        """Of each layer: gradients of its output in the batch, its input, its messages."""
        num_layers, keeps_sum = len(config["layers"]), config["aggregator_type"] == "gcn"
        maps = {f"layer{i + 1}.head_gradient": i for i in range(num_layers)}
        for i in range(num_layers):
            site = num_layers + SITES_PER_LAYER * i
            if i > 0:  # the first layer's input are parameters
                maps[f"layer{i + 1}.{'sum' if keeps_sum else 'input'}"] = site
            if i == 0 or not keeps_sum:
                maps[f"layer{i + 1}.messages"] = site + 1
        return maps

    @property
    def attention(self) -> tuple[Tensor, Tensor, Tensor]:
        """The attention matrix as CSR: row pointers (N + 1,), columns (E,), values (E,)."""
        return self.graph.adjacency.to_csr()

    def forward(self, rows: NodeRows) -> tuple[Tensor, ...]:
        """Rows (R, D_l) of the embeddings and of every layer's output, before normalisation."""
        return self._propagate(rows, self.streams.current())

    def _propagate(self, rows: NodeRows, streams: Tensor) -> tuple[Tensor, ...]:
        plan = Propagation(
            self.graph.adjacency,
            self.aggregator_type,
            self.quantizer.after(len(self.aggregator_layers)),
            self.mess_dropout if self.training else 0.0,
        )
        sites = streams[len(self.aggregator_layers) :].view(-1, SITES_PER_LAYER, 2)
        weights = [cast(GraphLayer, layer).weights() for layer in self.aggregator_layers]
        return propagate(sites, plan, rows, self._parts(), weights)

    def _parts(self) -> tuple[Tensor, Tensor]:
        return self.user_embedding.weight, self.entity_embedding.weight

    def _rows(self, users: Tensor, items: Tensor) -> tuple[NodeRows, Tensor, Tensor]:
        """Unique nodes of a batch, and the row among them of each user and of each item."""
        unique_users, user_rows = torch.unique(users, return_inverse=True)
        unique_items, item_rows = torch.unique(items, return_inverse=True)
        rows = NodeRows.from_parts(unique_users, unique_items, self.n_users)
        return rows, user_rows, item_rows + len(unique_users)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """BPR loss of a batch of (user, item, negative item), with the regulariser; a scalar."""
        self._forget()
        users = interaction[self.USER_ID]
        items = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])
        rows, user_rows, item_rows = self._rows(users, items)
        streams = self.streams.advance()
        outputs = self._propagate(rows, streams)
        pairs = (user_rows, *item_rows.chunk(2))
        head_streams = streams[: len(self.aggregator_layers)]
        return bpr_loss(
            head_streams, outputs, rows, self._parts(), pairs, self.quantizer, self.reg_weight
        )

    def calculate_kg_loss(self, interaction: Any) -> Tensor:
        """TransR loss of a batch of triples and negative tails, with the regulariser; a scalar."""
        self._forget()
        fields = (
            self.HEAD_ENTITY_ID,
            self.RELATION_ID,
            self.TAIL_ENTITY_ID,
            self.NEG_TAIL_ENTITY_ID,
        )
        triples = tuple(interaction[field] for field in fields)
        return transr_loss(
            self.entity_embedding.weight,
            self.relation_embedding.weight,
            self.trans_w.weight,
            triples,
            self.reg_weight,
        )

    def update_attentive_A(self) -> None:  # noqa: N802 - called by RecBole's KGATTrainer
        """Refresh the attention matrix from the embeddings."""
        self._forget()
        self.graph.refresh(self._parts(), self.relation_embedding.weight, self.trans_w.weight)

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Scores (B,) of pairs of a user and an item."""
        rows, users, items = self._rows(interaction[self.USER_ID], interaction[self.ITEM_ID])
        z = normalized_rows(self.forward(rows))
        return (z.index_select(0, users) * z.index_select(0, items)).sum(1)

    def _representations(self) -> list[Tensor]:
        """Of all users and of all items, (n_users, D) and (n_items, D)."""
        device = self.user_embedding.weight.device
        users, items = (torch.arange(n, device=device) for n in (self.n_users, self.n_items))
        rows = NodeRows.from_parts(users, items, self.n_users)
        return list(normalized_rows(self.forward(rows)).split([self.n_users, self.n_items]))

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores (B * n_items,) of each user with every item."""
        users, items = self._cached(self._representations)
        return (users[interaction[self.USER_ID]] @ items.t()).view(-1)

    def other_parameter(self) -> dict[str, Any]:
        """The attention matrix as CSR arrays, and the noise step."""
        return {"attention": self.graph.state(), **super().other_parameter()}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Take the state of `other_parameter`; stock's has no attention matrix: compute it."""
        super().load_other_parameter(para)
        if not para or "attention" not in para:
            self.update_attentive_A()
            return
        try:
            self.graph.load_state(para["attention"])
        except ValueError as error:
            raise CheckpointError(
                f"the checkpoint's attention matrix does not fit: {error}"
            ) from error
