r"""TinyKGAT: RecBole's KGAT, exact in the forward pass, with low-bit activations for backward.

KGAT (Wang et al., KDD 2019) propagates embeddings over the collaborative knowledge graph with an
attention matrix that is refreshed once per epoch. Parameters, their names, their initial values for
a seed, losses and scores are RecBole's. What differs is what a step keeps and computes:

* `kgat.propagate` saves codes and sign masks instead of float maps, and computes the last layer
  only for the rows of the batch;
* `bpr_loss` gathers the batch's unique rows before it normalises and concatenates;
* `transr_loss` multiplies by each relation's matrix once instead of gathering one per triple;
* the attention matrix is CSR (`graph.attention`), saved and loaded with the model.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from recbole.model.init import xavier_normal_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.functional import add_bpr_sites, bpr_loss, kgat, normalized_rows, transr_loss
from recbole_tinykg.graph.attention import AttentionGraph
from recbole_tinykg.graph.distinct import distinct
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
from recbole_tinykg.quantization import Sites, StepSites

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
        """Return weight and bias of each linear layer, as `kgat.propagate` takes them."""
        return tuple(self.parameters())


class TinyKGAT(Twin):
    """KGAT's twin; trains with RecBole's `KGATTrainer`."""

    stock_name = "KGAT"
    has_static_step = True
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
    def name_sites(cls, config: Any) -> Sites:
        """Return the sites of the loss, then those of the layers."""
        sites, num_layers = Sites(), len(config["layers"])
        add_bpr_sites(sites, num_layers)
        kgat.add_propagation_sites(sites, num_layers, config["aggregator_type"])
        return sites

    @property
    def attention(self) -> tuple[Tensor, Tensor, Tensor]:
        """The attention matrix as CSR: row pointers (N + 1,), columns (E,), values (E,)."""
        return self.graph.adjacency.to_csr()

    def forward(self, rows: NodeRows) -> tuple[Tensor, ...]:
        """Return the rows (R, D_l) of the input and of every layer, before normalisation."""
        return self._propagate(rows, self.current_sites())

    def _propagate(self, rows: NodeRows, sites: StepSites) -> tuple[Tensor, ...]:
        dropout = self.mess_dropout if self.training else 0.0
        plan = kgat.Propagation(self.graph.adjacency, self.aggregator_type, dropout)
        weights = [cast(GraphLayer, layer).weights() for layer in self.aggregator_layers]
        return kgat.propagate(sites, plan, rows, self._parts(), weights)

    def _parts(self) -> tuple[Tensor, Tensor]:
        return self.user_embedding.weight, self.entity_embedding.weight

    def _rows(self, users: Tensor, items: Tensor) -> tuple[NodeRows, Tensor, Tensor]:
        """Return the unique nodes of a batch, and the row of each user and of each item in them."""
        user_rows, item_rows = (
            distinct(index, below, static_shapes=self.static_shapes)
            for index, below in ((users, self.n_users), (items, self.n_items))
        )
        rows = NodeRows.from_parts(user_rows.numbers, item_rows.numbers, self.n_users)
        return rows, user_rows.places, item_rows.places + len(user_rows.numbers)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the BPR loss of (user, item, negative item), with the regulariser; a scalar."""
        self._forget()
        users = interaction[self.USER_ID]
        items = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])
        rows, user_rows, item_rows = self._rows(users, items)
        sites = self.next_sites()
        outputs = self._propagate(rows, sites)
        pairs = (user_rows, *item_rows.chunk(2))
        return bpr_loss(sites, outputs, rows, self._parts(), pairs, self.reg_weight)

    def calculate_kg_loss(self, interaction: Any) -> Tensor:
        """Return the TransR loss of triples and negative tails, with the regulariser; a scalar."""
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
            static_shapes=self.static_shapes,
        )

    def update_attentive_A(self) -> None:  # noqa: N802 - called by RecBole's KGATTrainer
        """Refresh the attention matrix from the embeddings."""
        self._forget()
        self.graph.refresh(self._parts(), self.relation_embedding.weight, self.trans_w.weight)

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Return the scores (B,) of pairs of a user and an item."""
        rows, users, items = self._rows(interaction[self.USER_ID], interaction[self.ITEM_ID])
        z = normalized_rows(self.forward(rows))
        return (z.index_select(0, users) * z.index_select(0, items)).sum(1)

    def _representations(self) -> list[Tensor]:
        """Return those of all users (n_users, D) and of all items (n_items, D)."""
        device = self.user_embedding.weight.device
        users, items = (torch.arange(n, device=device) for n in (self.n_users, self.n_items))
        rows = NodeRows.from_parts(users, items, self.n_users)
        return list(normalized_rows(self.forward(rows)).split([self.n_users, self.n_items]))

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the scores (B * n_items,) of each user with every item."""
        users, items = self._cached(self._representations)
        return (users[interaction[self.USER_ID]] @ items.t()).view(-1)

    def other_parameter(self) -> dict[str, Any]:
        """Return the attention matrix as CSR arrays, and the state of every twin."""
        return {"attention": self.graph.state(), **super().other_parameter()}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Load the state of `other_parameter`; compute an attention matrix that is missing."""
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
