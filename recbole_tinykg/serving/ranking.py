"""The k best items for each user: scored in batches, without the items already seen.

Scores are the model's own, from `full_sort_predict` or else pair by pair, and `torch.topk`
ranks them, as in RecBole's evaluation and its `case_study.full_sort_topk`. A batch has as many
users as an evaluation batch, so that memory does not grow with the number of users.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType
from torch import Tensor

from recbole_tinykg.config import Config
from recbole_tinykg.data.full_sort import PAIRS_PER_BATCH
from recbole_tinykg.data.negatives import Pairs
from recbole_tinykg.errors import CheckpointError, ConfigurationError
from recbole_tinykg.model import is_tiny
from recbole_tinykg.model.checks import check_integer
from recbole_tinykg.quick_start import restore
from recbole_tinykg.serving.arguments import NUM_NAMED, splits_of, user_ids
from recbole_tinykg.serving.item_file import read_item_field
from recbole_tinykg.serving.paths.finder import PathFinder, check_attention, path_finder
from recbole_tinykg.serving.paths.knowledge import GraphPath, KnowledgeGraph

_MODEL_TYPES = (ModelType.GENERAL, ModelType.KNOWLEDGE, ModelType.TRADITIONAL)


@dataclass(frozen=True)
class Recommendation:
    """An item for a user.

    Attributes:
        item: Its token in the data.
        score: The model's score.
        field: Its entry in `item_field`, such as a title; None if none was asked for.
        paths: Paths from items that the user knows, the best one first.
    """

    item: str
    score: float
    field: str | None = None
    paths: tuple[GraphPath, ...] = ()


@dataclass(frozen=True)
class UserRecommendations:
    """A user's recommendations, the best item first.

    Attributes:
        user: Token in the data.
        items: k of them, or as many as the user has not seen.
    """

    user: str
    items: tuple[Recommendation, ...]


def recommend(
    checkpoint: str | os.PathLike[str],
    users: Sequence[str] | None = None,
    *,
    k: int = 10,
    paths: int = 0,
    seen: str = "all",
    item_field: str | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> Iterator[UserRecommendations]:
    """Recommend items to users, in batches, each computed when it is asked for.

    Args:
        checkpoint: File that a run of ours wrote, or `recbole-tinykg convert`.
        users: Tokens as in the data; None: all users.
        k: Number of items for each user.
        paths: Most paths to each item; only models with attention over the graph have any.
        seen: Which of a user's items are left out: those of the splits `train`, `valid`,
            `test`, joined by commas; `all` of them; or `none`.
        item_field: Column of the data set's `.item` file to show with every item.
        config_dict: Parameters that win over the checkpoint's, such as `data_path`.

    Returns:
        One for each user, in the order given; a user who is given twice comes once.

    Raises:
        ConfigurationError: Unknown users, or another argument that cannot be used.
        CheckpointError: Not a checkpoint of ours, a damaged one, or one of other data.
    """
    seen_splits = splits_of(seen)
    check_integer("k", k, at_least=1)
    check_integer("paths", paths, at_least=0)
    loaded = _Loaded.from_checkpoint(checkpoint, config_dict)
    num_items = loaded.dataset.item_num - 1  # the first is padding
    if k > num_items:
        raise ConfigurationError(
            f"k must be at most {num_items}, the number of items in the data set; got {k}"
        )
    ids = user_ids(users, loaded.dataset)
    if paths:
        check_attention(loaded.model)
    loaded.check_users(ids)
    fields = read_item_field(loaded.config, loaded.dataset, item_field) if item_field else None
    ranking = _Ranking(loaded, loaded.pairs(seen_splits), k, fields)
    return ranking.users(ids, _Explanation(loaded, paths, fields) if paths else None)


def _check_scores_pairs(config: Config) -> None:
    if config["MODEL_TYPE"] not in _MODEL_TYPES:
        raise ConfigurationError(
            f"the checkpoint's model must score pairs of a user and an item; got "
            f"{config['model']}, a {config['MODEL_TYPE'].name.lower()} model, which reads more"
        )


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint's model in evaluation mode, its data, and the splits by name."""

    config: Config
    model: AbstractRecommender
    dataset: Dataset
    splits: dict[str, Dataset]

    @classmethod
    def from_checkpoint(
        cls, file: str | os.PathLike[str], changes: Mapping[str, Any] | None
    ) -> _Loaded:
        experiment = restore(file, changes, check=_check_scores_pairs)
        splits = experiment.splits
        return cls(experiment.config, experiment.model.eval(), splits["train"], splits)

    def pairs(self, splits: Sequence[str]) -> Pairs:
        """Return all pairs (user, item) of some splits."""
        features = [self.splits[name].inter_feat for name in splits if name in self.splits]
        users, items = (
            np.concatenate([np.empty(0, np.int64), *(table[name].numpy() for table in features)])
            for name in (self.dataset.uid_field, self.dataset.iid_field)
        )
        return Pairs(users, items, self.dataset.user_num, self.dataset.item_num)

    def check_users(self, ids: np.ndarray) -> None:
        """Refuse users without a ripple set, for whom RecBole's RippleNet stops."""
        if type(self.model).__name__ == "RippleNet":
            lacking = [user for user in ids.tolist() if not self.model.ripple_set.get(user)]
            if lacking:
                tokens = self.dataset.id2token(self.dataset.uid_field, lacking[:NUM_NAMED])
                raise ConfigurationError(
                    f"users must have training interactions for RippleNet; got {len(lacking)} "
                    f"without: {', '.join(tokens)}: train TinyRippleNet, which takes them"
                )


class _Ranking:
    """Scores and ranks, a batch of users at a time."""

    def __init__(
        self, loaded: _Loaded, seen: Pairs, k: int, fields: Mapping[str, str] | None
    ) -> None:
        self._model, self._dataset, self._config = loaded.model, loaded.dataset, loaded.config
        self._seen, self._k, self._fields = seen, k, fields

    def users(
        self, ids: np.ndarray, explanation: _Explanation | None
    ) -> Iterator[UserRecommendations]:
        """Yield the recommendations for users (U,)."""
        size = self._batch_size()
        for start in range(0, len(ids), size):
            batch = ids[start : start + size]
            best = torch.topk(self._unseen_scores(batch), self._k, dim=1)
            scores, items = best.values.cpu(), best.indices.cpu()
            if bool(torch.isnan(scores).any()):
                raise CheckpointError(
                    "the checkpoint must score with numbers; got NaN: its training diverged"
                )
            for user, own_scores, own_items in zip(batch, scores, items, strict=True):
                left = own_scores > -math.inf
                chosen = own_items[left].numpy()
                paths = explanation.paths_to(user, chosen) if explanation else [()] * len(chosen)
                tokens = self._dataset.id2token(self._dataset.iid_field, chosen).tolist()
                fields = [None if self._fields is None else self._fields.get(t, "") for t in tokens]
                yield UserRecommendations(
                    str(self._dataset.id2token(self._dataset.uid_field, user)),
                    tuple(map(Recommendation, tokens, own_scores[left].tolist(), fields, paths)),
                )

    def _batch_size(self) -> int:
        pairs = self._config["eval_batch_size"]
        if is_tiny(type(self._model)) and _scores_all_items(self._model):
            pairs = max(pairs, PAIRS_PER_BATCH)
        return max(pairs // self._dataset.item_num, 1)

    @torch.no_grad()
    def _unseen_scores(self, users: np.ndarray) -> Tensor:  # (B,) -> (B, n_items)
        """Return the scores of all items, with -inf for padding and for what was seen."""
        scores = item_scores(self._model, self._dataset, users, self._config)
        scores[:, 0] = -math.inf
        row, item = (index.to(scores.device) for index in self._seen.rows(users))
        scores[row, item] = -math.inf
        return scores


class _Explanation:
    """Finds and names the paths from a user's training items to recommended ones."""

    def __init__(self, loaded: _Loaded, num_paths: int, fields: Mapping[str, str] | None) -> None:
        self._graph = KnowledgeGraph(loaded.dataset)
        self._finder: PathFinder = path_finder(loaded.model, self._graph)
        self._known = loaded.pairs(["train"])
        self._num_paths, self._fields = num_paths, fields or {}

    def paths_to(self, user: int, items: np.ndarray) -> list[tuple[GraphPath, ...]]:
        """Return the paths to each of a user's items (I,)."""
        history = self._known.rows(np.array([user]))[1].numpy()
        found = self._finder.find(user, history, items, self._num_paths)
        return self._graph.named(found, len(items), self._fields)


def _scores_all_items(model: AbstractRecommender) -> bool:
    return type(model).full_sort_predict is not AbstractRecommender.full_sort_predict


def item_scores(
    model: AbstractRecommender,
    dataset: Dataset,
    users: np.ndarray,  # (B,)
    config: Config,
) -> Tensor:  # (B, n_items)
    """Return the model's own scores of every item for some users."""
    device, num_items = config["device"], dataset.item_num
    batch = dataset.join(Interaction({dataset.uid_field: torch.from_numpy(users)})).to(device)
    if _scores_all_items(model):
        return model.full_sort_predict(batch).view(-1, num_items)
    pairs = batch.repeat_interleave(num_items)
    pairs.update(dataset.get_item_feature().to(device).repeat(len(users)))
    size = config["eval_batch_size"]
    parts = [
        model.predict(pairs[start : start + size]).view(-1) for start in range(0, len(pairs), size)
    ]
    return torch.cat(parts).view(-1, num_items)
