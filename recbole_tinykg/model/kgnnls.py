"""TinyKGNNLS: RecBole's KGNN-LS, exact in the forward pass, with low-bit activations for backward.

KGNN-LS (Wang et al., KDD 2019) is KGCN plus label smoothness: the weights that mix neighbours also
have to predict which items a user knows. RecBole looks labels up in a Python dict, number by
number; here they are a sorted tensor of 64-bit keys, searched on the device.

RecBole's dict has 32-bit keys, which overflow from 2,147 users on with 100,000 entities, and it
grows by every key that it is asked for. RecBole samples as many negative labels as there are
positive ones; here they are distinct, and their users and items exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional import kgcn
from recbole_tinykg.model.checks import check_weight
from recbole_tinykg.model.kgcn import TinyKGCN


class TinyKGNNLS(TinyKGCN):
    """KGNN-LS' twin."""

    stock_name = "KGNNLS"
    num_norms = 1  # RecBole's EmbLoss takes positive and negative items together
    label_keys: Tensor  # (L,) int64, sorted: user * n_entities + item
    label_values: Tensor  # (L,) uint8: twice the label

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build a KGCN that samples labels after the neighbours."""
        super().__init__(config, dataset)
        self.ls_weight = config["ls_weight"]

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a KGNN-LS."""
        super().check_config(config)
        check_weight(config, "ls_weight")

    def _draw_labels(self, dataset: Any, generator: torch.Generator) -> None:
        users, items = (
            dataset.inter_feat[field].cpu() for field in (dataset.uid_field, dataset.iid_field)
        )
        positive = torch.unique(users * self.n_entities + items)
        negative = self._sample_negatives(positive, generator)
        keys, order = torch.cat([positive, negative]).sort()
        values = torch.cat([torch.full_like(positive, 2), torch.zeros_like(negative)])[order]
        self.register_buffer("label_keys", keys, persistent=False)
        self.register_buffer("label_values", values.to(torch.uint8), persistent=False)

    def _sample_negatives(self, positive: Tensor, generator: torch.Generator) -> Tensor:
        """Return keys of distinct pairs outside `positive`: as many as it has, or all there are."""
        num_others = (self.n_users - 1) * (self.n_items - 1) - len(positive)
        if num_others < len(positive):
            users, items = (torch.arange(1, n) for n in (self.n_users, self.n_items))
            keys = (users[:, None] * self.n_entities + items).view(-1)
            return keys[~torch.isin(keys, positive)]
        keys = positive[:0]
        while len(keys) < len(positive):
            user, item = (
                torch.randint(1, n, positive.shape, generator=generator)
                for n in (self.n_users, self.n_items)
            )
            keys = torch.unique(torch.cat([keys, user * self.n_entities + item]))
            keys = keys[~torch.isin(keys, positive)]
        return keys[torch.randperm(len(keys), generator=generator)[: len(positive)]]

    def known_labels(self, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Return twice the labels (N * K^h,) uint8 in each hop of the items (N,), mostly `UNKNOWN`.

        The items themselves are held out wherever they appear.
        """
        known = []
        for entities in self.field.entities(items):
            repeats = len(entities) // len(items)
            user, item = (t.repeat_interleave(repeats) for t in (users, items))
            asked = (entities < self.n_items) & (entities != item)
            if self.static_shapes:
                labels = torch.where(asked, self._labels_of(user, entities), kgcn.UNKNOWN)
            else:  # mostly a small part, which a CPU looks up in less time
                rows = asked.nonzero().squeeze(1)
                labels = torch.full_like(entities, kgcn.UNKNOWN, dtype=torch.uint8)
                labels[rows] = self._labels_of(user[rows], entities[rows])
            known.append(labels)
        return tuple(known)

    def _labels_of(self, users: Tensor, items: Tensor) -> Tensor:  # (N,) each
        """Return twice the labels (N,) uint8, `UNKNOWN` for pairs without one."""
        keys = users.long() * self.n_entities + items
        place = torch.searchsorted(self.label_keys, keys).clamp_(max=len(self.label_keys) - 1)
        found = self.label_keys[place] == keys
        return torch.where(found, self.label_values[place], kgcn.UNKNOWN)

    def _with_label_loss(
        self, loss: Tensor, users: Tensor, items: Tensor, attention: Any, labels: Tensor
    ) -> Tensor:
        known = self.known_labels(users.repeat(len(items) // len(users)), items)
        return loss + self.ls_weight * kgcn.label_smoothness_loss(attention, known, labels)

    def other_parameter(self) -> dict[str, Any]:
        """Return the known labels and KGCN's state."""
        labels = {"label_keys": self.label_keys, "label_values": self.label_values}
        return {**labels, **super().other_parameter()}

    def load_other_parameter(self, para: dict[str, Any] | None) -> None:
        """Load KGCN's state and, if it has them, the labels; RecBole saves none."""
        super().load_other_parameter(para)
        if para and "label_keys" in para:
            self.label_keys = para["label_keys"].to(self.label_keys)
            self.label_values = para["label_values"].to(self.label_values)
