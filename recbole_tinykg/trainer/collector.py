"""Collects the k best items of every user in an evaluation, in memory that grows with k."""

from __future__ import annotations

import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from torch import Tensor


class TopKCollector(Collector):
    """RecBole's `Collector`, whose work for the k best items grows with k, not with all items."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._parts: dict[str, list[Tensor]] = {"rec.items": [], "rec.topk": []}
        others = ("rec.meanrank", "rec.score", "data.label")
        self._only_topk = not any(self.register.need(name) for name in others)

    def eval_batch_collect(
        self,
        scores_tensor: Tensor,  # (B, n_items)
        interaction: Interaction,
        positive_u: Tensor,  # (P,)
        positive_i: Tensor,  # (P,)
    ) -> None:
        """Store each user's k best items, which of them are held out, and how many items are."""
        if not self._only_topk:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        num_users, num_items = scores_tensor.shape
        best = torch.topk(scores_tensor, max(self.topk), dim=-1).indices  # (B, k)
        if self.register.need("rec.items"):
            self._parts["rec.items"].append(best)
        if self.register.need("rec.topk"):
            positives = torch.unique(positive_u.cpu() * num_items + positive_i.cpu())
            counts = torch.bincount(positives // num_items, minlength=num_users)
            rows = torch.arange(num_users, device=best.device).unsqueeze(1)
            hits = torch.isin(rows * num_items + best, positives.to(best.device))
            counted = counts.to(best.device).unsqueeze(1)
            self._parts["rec.topk"].append(torch.cat([hits.long(), counted], dim=1))

    def get_data_struct(self) -> DataStruct:
        """Return what RecBole computes its metrics from, and forget it."""
        for name, parts in self._parts.items():
            if parts:
                self.data_struct.set(name, torch.cat(parts))
                parts.clear()
        return super().get_data_struct()
