"""KGCN's view of an item: its sampled neighbours, weighted by the user.

`relation_attention` weighs the neighbours of a `graph.receptive_field`, `convolution` mixes their
vectors and `label_smoothness` (of KGNN-LS) their labels; `scores` evaluates all items without a
gradient.
"""

from recbole_tinykg.functional.kgcn.convolution import (
    AGGREGATORS,
    add_neighborhood_sites,
    aggregate_neighborhood,
)
from recbole_tinykg.functional.kgcn.label_smoothness import UNKNOWN, label_smoothness_loss
from recbole_tinykg.functional.kgcn.relation_attention import BatchUsers, relation_attention
from recbole_tinykg.functional.kgcn.scores import NeighborhoodScores

__all__ = [
    "AGGREGATORS",
    "UNKNOWN",
    "BatchUsers",
    "NeighborhoodScores",
    "add_neighborhood_sites",
    "aggregate_neighborhood",
    "label_smoothness_loss",
    "relation_attention",
]
