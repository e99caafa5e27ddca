r"""TinyKGIN: RecBole's KGIN, exact in the forward pass, with low-bit activations for backward.

KGIN (Wang et al., WWW 2021) explains a user's interactions by intents, mixes of relations, and sums
messages along relational paths. Parameters, their names, their initial values for a seed, loss and
scores are RecBole's. What differs is what a step keeps and computes:

* `kgin.propagate_intents` multiplies by a relation per (head, relation), not per edge, saves codes
  of the heads' and of the batch's users' rows, and computes the last hop for the batch only;
* `kgin.summed_bpr_loss` works on the batch's unique rows;
* a step's edges and its dropout come from the model's noise streams, not from NumPy.

RecBole samples edges in evaluation too, and ranks with embeddings cached before the best weights
are loaded. The twin evaluates on all edges, with the current weights.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.init import xavier_uniform_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.functional import kgin
from recbole_tinykg.graph.distinct import distinct
from recbole_tinykg.graph.from_recbole import relational_graph
from recbole_tinykg.model.checks import check_choice, check_positive, check_rate, check_weight
from recbole_tinykg.model.twin import Twin
from recbole_tinykg.quantization import Sites, StepSites


class IntentLayers(nn.Module):
    """The parameters of KGIN's `GraphConv`, named and created as there."""

    def __init__(self, num_relations: int, embedding_size: int, num_factors: int) -> None:
        """Create them in RecBole's order, so that a seed gives the same weights."""
        super().__init__()
        self.relation_embedding = nn.Embedding(num_relations, embedding_size)
        self.disen_weight_att = nn.Parameter(
            nn.init.xavier_uniform_(torch.empty(num_factors, num_relations))
        )
        self.apply(xavier_uniform_initialization)


class TinyKGIN(Twin):
    """KGIN's twin; trains with RecBole's `KGTrainer`."""

    stock_name = "KGIN"
    has_static_step = True
    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        """Create the parameters in RecBole's order, then the graph."""
        super().__init__(config, dataset)
        self.embedding_size = config["embedding_size"]
        self.n_factors = config["n_factors"]
        self.context_hops = config["context_hops"]
        self.node_dropout_rate = config["node_dropout_rate"]
        self.mess_dropout_rate = config["mess_dropout_rate"]
        self.ind = config["ind"]
        self.sim_decay = config["sim_regularity"]
        self.reg_weight = config["reg_weight"]
        self.temperature = config["temperature"]

        self.user_embedding = nn.Embedding(self.n_users, self.embedding_size)
        self.entity_embedding = nn.Embedding(self.n_entities, self.embedding_size)
        self.latent_embedding = nn.Embedding(self.n_factors, self.embedding_size)
        self.gcn = IntentLayers(self.n_relations, self.embedding_size, self.n_factors)
        self.apply(xavier_uniform_initialization)

        self.graph = relational_graph(dataset)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a KGIN."""
        check_positive(config, "embedding_size", "n_factors", "context_hops")
        check_choice(config, "ind", kgin.MEASURES)
        check_rate(config, "mess_dropout_rate")
        check_weight(config, "reg_weight", "sim_regularity", "node_dropout_rate", "temperature")
        if config["node_dropout_rate"] > 1:
            raise ConfigurationError(
                "node_dropout_rate must lie in [0, 1]: the share of edges that a step keeps, 0 for "
                f"all; got {config['node_dropout_rate']!r}"
            )
        if config["temperature"] == 0:
            raise ConfigurationError("temperature must be above 0; got 0")

    @classmethod
    def name_sites(cls, config: Any) -> Sites:
        """Return the sites of the loss, then those of the hops."""
        sites = Sites()
        kgin.add_summed_bpr_sites(sites)
        kgin.add_intent_sites(sites, config["context_hops"])
        return sites

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the representations (U, D) and (I, D) of unique users and items."""
        outputs = self._propagate(kgin.BatchRows(users, items), self.current_sites())
        user_rows, item_rows = kgin.summed_rows(*outputs).split([len(users), len(items)])
        return user_rows, item_rows

    def _propagate(self, batch: kgin.BatchRows, sites: StepSites) -> tuple[Tensor, Tensor]:
        parameters = (
            self.user_embedding.weight,
            self.entity_embedding.weight,
            self.latent_embedding.weight,
            self.gcn.relation_embedding.weight,
            self.gcn.disen_weight_att,
        )
        return kgin.propagate_intents(sites, self.plan, batch, parameters)

    @property
    def plan(self) -> kgin.IntentPropagation:
        """How the hops are computed now, in training or in evaluation."""
        rates = (self.node_dropout_rate, self.mess_dropout_rate) if self.training else (0.0, 0.0)
        return kgin.IntentPropagation(self.graph, self.context_hops, *rates)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the BPR loss of (user, item, negative item), with both regularisers; a scalar."""
        self._forget()
        static = self.static_shapes
        users, user_rows = distinct(interaction[self.USER_ID], self.n_users, static_shapes=static)
        items = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])
        items, item_rows = distinct(items, self.n_items, static_shapes=static)
        sites = self.next_sites()
        sums, last = self._propagate(kgin.BatchRows(users, items, static), sites)
        pairs = (user_rows, *(item_rows + len(users)).chunk(2))
        loss = kgin.summed_bpr_loss(sites, sums, last, pairs, self.reg_weight)
        attention = self.gcn.disen_weight_att
        return loss + self.sim_decay * kgin.independence_loss(attention, self.ind, self.temperature)

    def _representations(self) -> tuple[Tensor, Tensor]:
        """Return the representations of all users and all items."""
        device = self.user_embedding.weight.device
        users, items = (torch.arange(n, device=device) for n in (self.n_users, self.n_items))
        return self(users, items)

    @torch.no_grad()
    def predict(self, interaction: Any) -> Tensor:
        """Return the scores (B,) of pairs of a user and an item."""
        users, items = self._cached(self._representations)
        rows = users.index_select(0, interaction[self.USER_ID])
        return (rows * items.index_select(0, interaction[self.ITEM_ID])).sum(1)

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the scores (B * n_items,) of each user with every item."""
        users, items = self._cached(self._representations)
        return (users.index_select(0, interaction[self.USER_ID]) @ items.t()).view(-1)
