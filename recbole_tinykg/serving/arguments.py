"""The arguments of `recommend`, checked and turned into numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recbole_tinykg.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset

SPLITS = ("train", "valid", "test")
NUM_NAMED = 5
"""How many users an error names."""


def splits_of(seen: str) -> tuple[str, ...]:
    """Return the splits that `seen` names: `all`, `none`, or names with commas between."""
    named = {"all": SPLITS, "none": ()}.get(seen, tuple(seen.split(",")))
    if not set(named) <= set(SPLITS):
        raise ConfigurationError(
            f"seen must be all, none, or some of {','.join(SPLITS)} with commas between; "
            f"got {seen!r}"
        )
    return named


def user_ids(tokens: Sequence[str] | None, dataset: Dataset) -> np.ndarray:  # (U,)
    """Return the numbers of users in the data set; without tokens, of all users."""
    if tokens is None:
        return np.arange(1, dataset.user_num)
    if isinstance(tokens, str) or not len(tokens):
        raise ConfigurationError(f"users must be a list of one token or more; got {tokens!r}")
    known = dataset.field2token_id[dataset.uid_field]
    wanted = dict.fromkeys(map(str, tokens))
    unknown = [token for token in wanted if not known.get(token)]  # the number of padding is 0
    if unknown:
        named = ", ".join(_with_near_miss(token, known) for token in unknown[:NUM_NAMED])
        more = f" and {len(unknown) - NUM_NAMED} more" if len(unknown) > NUM_NAMED else ""
        raise ConfigurationError(
            f"users must be in the data set {dataset.dataset_name} as its filters leave it; "
            f"got {len(unknown)} that are not: {named}{more}"
        )
    return np.array([known[token] for token in wanted], dtype=np.int64)


def _with_near_miss(token: str, known: Mapping[str, int]) -> str:
    hint = did_you_mean(token, known, cutoff=0.7)
    return f"{token!r} ({hint})" if hint else repr(token)
