"""Evaluation over all items, many users at a time, in bounded memory.

RecBole scores `eval_batch_size // n_items` users at once, which is two on ml-100k and one with
more than 2,048 items, keeps two tensors per user, and marks the held-out items in a matrix of
users × items. Here:

* a batch holds as many users as make `PAIRS_PER_BATCH` scores, or RecBole's number if larger;
  models that RecBole scores pair by pair keep RecBole's number;
* the items that users know and those that are held out are two sorted arrays of (user, item);
* which of the k best items are held out is looked up in these arrays, k per user.

The scores go through RecBole's own masking and metrics, and `torch.topk` works row by row, so
equal scores are ranked as RecBole ranks them.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_tinykg.data.index_loader import IndexTensors, take
from recbole_tinykg.data.negatives import ItemSampler, Pairs

PAIRS_PER_BATCH = 2**22  # 16 MiB of scores


class FullSortLoader(IndexTensors, FullSortEvalDataLoader):
    """RecBole's `FullSortEvalDataLoader`: each user of a split once, in batches of many."""

    def __init__(self, config: Config, dataset: Dataset, sampler: ItemSampler) -> None:
        """Sort the split by user, as RecBole does, and split known items into two sets."""
        self.logger = logging.getLogger()
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        dataset.sort(by=self.uid_field, ascending=True)
        users, items = (dataset.inter_feat[f] for f in (self.uid_field, self.iid_field))
        self._positives = Pairs(users.numpy(), items.numpy(), dataset.user_num, dataset.item_num)
        self._history = sampler.used_ids.without(self._positives)
        self.uid_list = torch.unique_consecutive(users)
        self.uid2items_num = self._positives.counts()
        self.user_df = dataset.join(Interaction({self.uid_field: self.uid_list}))
        self.sample_size = len(self.uid_list)
        AbstractDataLoader.__init__(self, config, dataset, sampler)
        self._drop_row_list()

    @property
    def uid2positive_item(self) -> np.ndarray:
        """The held-out items of every user as RecBole stores them; built on request."""
        return self._by_user(self._positives)

    @property
    def uid2history_item(self) -> np.ndarray:
        """The other known items of every user as RecBole stores them; built on request."""
        return self._by_user(self._history)

    def _by_user(self, pairs: Pairs) -> np.ndarray:
        rows, items = pairs.rows(self.uid_list.numpy())
        counts = torch.bincount(rows, minlength=len(self.uid_list))
        by_user = np.full(pairs.num_keys, None, dtype=object)
        for user, own in zip(self.uid_list.tolist(), items.split(counts.tolist()), strict=True):
            by_user[user] = own
        return by_user

    def _init_batch_size_and_step(self) -> None:
        num_items = self._dataset.item_num
        pairs = self.config["eval_batch_size"]
        if self.config.model_class.full_sort_predict is not AbstractRecommender.full_sort_predict:
            pairs = max(pairs, PAIRS_PER_BATCH)
        self.step = max(pairs // num_items, 1)
        self.set_batch_size(self.step * num_items)

    def collate_fn(self, index: Tensor) -> tuple[Any, ...]:  # (B,)
        """Return the users of the rows, and (row, item) of what they know and what is held out."""
        users = self.uid_list[index].numpy()
        return (
            take(self.user_df, index),
            self._history.rows(users),
            *self._positives.rows(users),
        )
