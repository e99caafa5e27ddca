"""The edges of a knowledge graph as three columns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Triples(NamedTuple):
    """Heads, relations and tails: integers, three tensors of one shape, (E,) unless said."""

    head: Tensor
    relation: Tensor
    tail: Tensor
