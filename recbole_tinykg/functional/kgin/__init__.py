"""KGIN's hops: sums along relational paths, guided by intents.

`propagation` is all hops as one autograd function, `step` what is fixed for a step (with
`edge_sampling`), `guidance` the users' side, `unit_rows` normalisation, `summed_bpr` the loss,
`independence` the regulariser of the intents. The fixed patterns are in `graph.relational_graph`.
"""

from recbole_tinykg.functional.kgin.independence import MEASURES, independence_loss
from recbole_tinykg.functional.kgin.propagation import propagate_intents
from recbole_tinykg.functional.kgin.step import BatchRows, IntentPropagation, add_intent_sites
from recbole_tinykg.functional.kgin.summed_bpr import (
    add_summed_bpr_sites,
    summed_bpr_loss,
    summed_rows,
)

__all__ = [
    "MEASURES",
    "BatchRows",
    "IntentPropagation",
    "add_intent_sites",
    "add_summed_bpr_sites",
    "independence_loss",
    "propagate_intents",
    "summed_bpr_loss",
    "summed_rows",
]
