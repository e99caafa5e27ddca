"""TinyKGCN: RecBole's KGCN, exact in the forward pass, with low-bit activations for backward.

KGCN (Wang et al., WWW 2019) represents an item, for a user, by itself and its sampled neighbours in
the knowledge graph, weighted by what the user thinks of the relations. Parameters, their names,
their initial values for a seed, losses and scores are RecBole's. What differs:

* neighbours are sampled for all entities at once, from a generator of the model's own seed;
* `kgcn.relation_attention` gathers scores from a table of users times relations, and
  `kgcn.aggregate_neighborhood` sums neighbours straight from the embedding table, saves codes of
  hidden layers, and computes positive and negative items together;
* evaluation computes an entity's vector once per user, however many items reach it.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.init import xavier_normal_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.functional import add_pointwise_sites, kgcn, pointwise_loss
from recbole_tinykg.graph.from_recbole import knowledge_triples
from recbole_tinykg.graph.neighbors import sample_neighbors
from recbole_tinykg.graph.receptive_field import ReceptiveField
from recbole_tinykg.model.checks import check_choice, check_positive, check_weight
from recbole_tinykg.model.twin import Twin
from recbole_tinykg.quantization import Sites, StepSites


class TinyKGCN(Twin):
    """KGCN's twin."""

    stock_name = "KGCN"
    input_type = InputType.PAIRWISE
    has_static_step = True
    num_norms = 2  # RecBole's EmbLoss takes positive and negative items apart
    adj_entity: Tensor  # (n_entities, K) int32
    adj_relation: Tensor  # (n_entities, K) int32

    def __init__(self, config: Any, dataset: Any) -> None:
        """Sample the neighbours, then create the parameters in RecBole's order."""
        super().__init__(config, dataset)
        self.embedding_size = config["embedding_size"]
        self.n_iter = config["n_iter"]
        self.aggregator = config["aggregator"]
        self.reg_weight = config["reg_weight"]
        generator = torch.Generator().manual_seed(config["seed"])
        neighbors, relations = sample_neighbors(
            *knowledge_triples(dataset), self.n_entities, config["neighbor_sample_size"], generator
        )
        self.register_buffer("adj_entity", neighbors, persistent=False)
        self.register_buffer("adj_relation", relations, persistent=False)
        self._draw_labels(dataset, generator)

        self.user_embedding = nn.Embedding(self.n_users, self.embedding_size)
        self.entity_embedding = nn.Embedding(self.n_entities, self.embedding_size)
        self.relation_embedding = nn.Embedding(self.n_relations + 1, self.embedding_size)
        input_size = self.embedding_size * (2 if self.aggregator == "concat" else 1)
        self.linear_layers = nn.ModuleList(
            nn.Linear(input_size, self.embedding_size) for _ in range(self.n_iter)
        )
        self.apply(xavier_normal_initialization)

    def _draw_labels(self, dataset: Any, generator: torch.Generator) -> None:
        """Draw labels, which only KGNN-LS has."""

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a KGCN."""
        check_positive(config, "embedding_size", "n_iter", "neighbor_sample_size")
        check_choice(config, "aggregator", kgcn.AGGREGATORS)
        check_weight(config, "reg_weight")

    @classmethod
    def name_sites(cls, config: Any) -> Sites:
        """Return the sites of the loss, then those of the convolution."""
        sites = Sites()
        add_pointwise_sites(sites)
        kgcn.add_neighborhood_sites(sites, config["n_iter"], config["aggregator"])
        return sites

    @property
    def field(self) -> ReceptiveField:
        """The sampled graph, followed for `n_iter` hops."""
        return ReceptiveField(self.adj_entity, self.adj_relation, self.n_iter)

    def attention(self, users: kgcn.BatchUsers, items: Tensor) -> tuple[Tensor, ...]:
        """Return the weights (N * K^h, K) of neighbours in each hop, for the users of N items."""
        user, relation = self.user_embedding.weight, self.relation_embedding.weight
        return kgcn.relation_attention(user, relation, self.field, users, items)

    def forward(self, items: Tensor, attention: tuple[Tensor, ...], sites: StepSites) -> Tensor:
        """Return the vectors (N, d) of items, as the users of `attention` see them."""
        return kgcn.aggregate_neighborhood(
            sites,
            self.field,
            self.aggregator,
            items,
            self.entity_embedding.weight,
            attention,
            tuple(self.linear_layers.parameters()),
        )

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the cross entropy of (user, item, negative item), with the regulariser."""
        self._forget()
        users = kgcn.BatchUsers.of(
            interaction[self.USER_ID], self.n_users, static_shapes=self.static_shapes
        )
        items = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]]).int()
        labels = (torch.arange(len(items), device=items.device) < len(items) // 2).float()
        attention = self.attention(users, items)
        sites = self.next_sites()
        loss = pointwise_loss(
            sites,
            self.user_embedding.weight,
            users,
            self.forward(items, attention, sites),
            labels,
            self.reg_weight,
            self.num_norms,
        )
        return self._with_label_loss(loss, interaction[self.USER_ID], items, attention, labels)

    def _with_label_loss(
        self, loss: Tensor, users: Tensor, items: Tensor, attention: Any, labels: Tensor
    ) -> Tensor:
        """Add the term over labels, which only KGNN-LS has."""
        return loss

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Return the scores (B,) of pairs of a user and an item."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        attention = self.attention(kgcn.BatchUsers.of(user, self.n_users), item)
        vectors = self.forward(item, attention, self.current_sites())
        return (self.user_embedding.weight.index_select(0, user) * vectors).sum(1)

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the scores (B * n_items,) of each user with every item."""
        users = self.user_embedding.weight.index_select(0, interaction[self.USER_ID])
        return self._cached(self._item_scores).scores(users).view(-1)

    def _item_scores(self) -> kgcn.NeighborhoodScores:
        return kgcn.NeighborhoodScores(
            self.field,
            self.aggregator,
            self.n_items,
            self.entity_embedding.weight,
            self.relation_embedding.weight,
            tuple(self.linear_layers.parameters()),
        )

    def other_parameter(self) -> dict[str, Any]:
        """Return the sampled neighbours, under RecBole's names, and the state of every twin."""
        tables = {"adj_entity": self.adj_entity, "adj_relation": self.adj_relation}
        return {**tables, **super().other_parameter()}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Load sampled neighbours, ours or RecBole's."""
        super().load_other_parameter(para)
        bounds = {"adj_entity": self.n_entities, "adj_relation": self.n_relations + 1}
        for name, bound in bounds.items():
            if not para or name not in para:
                continue
            own, table = getattr(self, name), para[name]
            if table.shape != own.shape:
                raise CheckpointError(
                    f"the checkpoint's {name} must have shape {tuple(own.shape)}, as "
                    f"neighbor_sample_size and the data set say; got {tuple(table.shape)}"
                )
            if len(table) and not 0 <= int(table.min()) <= int(table.max()) < bound:
                raise CheckpointError(
                    f"the checkpoint's {name} must hold numbers from 0 to {bound - 1}, as the data "
                    f"set says; got {int(table.min())} to {int(table.max())}"
                )
            # A copy: an autograd graph may still read the old one.
            setattr(self, name, table.to(own, copy=True))
