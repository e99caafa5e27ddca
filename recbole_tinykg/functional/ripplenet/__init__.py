"""RippleNet's memories of facts, read by items.

`loss` is the whole loss as one autograd function: `graph.ripple_memories` finds the distinct facts
of a batch, `relation_products` multiplies by relation matrices, `memory_reading` lets items read,
`fact_terms` computes the terms over facts. `scores` evaluates without a gradient.
"""

from recbole_tinykg.functional.ripplenet.loss import Penalty, ripple_loss
from recbole_tinykg.functional.ripplenet.memory_reading import RippleWeights
from recbole_tinykg.functional.ripplenet.scores import ItemScores, pair_scores

__all__ = ["ItemScores", "Penalty", "RippleWeights", "pair_scores", "ripple_loss"]
