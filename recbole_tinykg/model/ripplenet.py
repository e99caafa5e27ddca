r"""TinyRippleNet: RecBole's RippleNet, exact, without a relation matrix per memory slot.

RippleNet (Wang et al., CIKM 2018) gives every user a memory of facts, hop by hop, and lets an item
read it: attention over :math:`v^\top R h`, the answer a weighted sum of tails. Parameters, their
names, their initial values for a seed, losses and scores are RecBole's. What differs is what a step
keeps and computes:

* the ripple sets are int32 tensors (`graph.ripple_sets`), drawn at once for all users with a
  generator of their own, saved and loaded with the model;
* `ripplenet.ripple_loss` multiplies by each relation's matrix once instead of gathering one per
  memory slot of every row, and saves only the attention weights.

RecBole's later hops repeat the first one by mistake; so do these, unless `repeat_first_hop` is
False and the ripple sets follow the graph as in the paper. So little is left to save that none of
it is rounded: `compress_bits` changes nothing here.
"""

from __future__ import annotations

from typing import Any

from recbole.model.init import xavier_normal_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.functional import ripplenet
from recbole_tinykg.graph import ripple_sets
from recbole_tinykg.model.checks import check_choice, check_positive, check_weight
from recbole_tinykg.model.twin import Twin


class TinyRippleNet(Twin):
    """RippleNet's twin; trains with RecBole's `KGTrainer`."""

    stock_name = "RippleNet"
    has_static_step = True
    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        """Draw the ripple sets, then create the parameters in RecBole's order."""
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.embedding_size = config["embedding_size"]
        self.n_hop, self.n_memory = config["n_hop"], config["n_memory"]
        self.penalty = ripplenet.Penalty(config["kg_weight"], config["reg_weight"])

        self.entity_embedding = nn.Embedding(self.n_entities, self.embedding_size)
        self.relation_embedding = nn.Embedding(self.n_relations, self.embedding_size**2)
        self.transform_matrix = nn.Linear(self.embedding_size, self.embedding_size, bias=False)
        self.apply(xavier_normal_initialization)

        self.ripple_sets = ripple_sets.sample(
            dataset,
            self.n_hop,
            self.n_memory,
            config["seed"],
            repeat_first_hop=config["repeat_first_hop"],
        )

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a RippleNet."""
        check_positive(config, "embedding_size", "n_hop", "n_memory")
        check_weight(config, "kg_weight", "reg_weight")
        check_choice(config, "repeat_first_hop", (False, True))

    def _weights(self) -> ripplenet.RippleWeights:
        return ripplenet.RippleWeights(
            self.entity_embedding.weight,
            self.relation_embedding.weight,
            self.transform_matrix.weight,
        )

    def forward(self, interaction: Any) -> Tensor:
        """Return the scores (B,) of pairs of a user and an item, without a gradient."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return ripplenet.pair_scores(users, items, self.ripple_sets.table, self._weights())

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the loss (1,) of a batch of (user, item, label), with the terms over facts."""
        self._forget()
        return ripplenet.ripple_loss(
            interaction[self.USER_ID],
            interaction[self.ITEM_ID],
            interaction[self.LABEL],
            self.ripple_sets.table,
            self._weights(),
            self.penalty,
            most_pairs=self.ripple_sets.num_pairs if self.static_shapes else None,
        )

    def predict(self, interaction: Any) -> Tensor:
        """Return the scores (B,) of pairs of a user and an item."""
        return self(interaction)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the scores (B * n_items,) of each user with every item."""
        return self._cached(self._item_scores).scores(interaction[self.USER_ID]).view(-1)

    def _item_scores(self) -> ripplenet.ItemScores:
        return ripplenet.ItemScores.of(self.n_items, self.ripple_sets.table, self._weights())

    def other_parameter(self) -> dict[str, Any]:
        """Return the ripple sets as tensors (n_users, n_hop, n_memory), and every twin's state."""
        return {"ripple_sets": self.ripple_sets.state(), **super().other_parameter()}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Load the state of `other_parameter`, or RecBole's `ripple_set`."""
        super().load_other_parameter(para)
        try:
            if para and "ripple_sets" in para:
                self.ripple_sets.load_state(para["ripple_sets"])
            elif para and "ripple_set" in para:
                self.ripple_sets.load_stock(para["ripple_set"])
        except ValueError as error:
            raise CheckpointError(f"the checkpoint's ripple sets do not fit: {error}") from error
