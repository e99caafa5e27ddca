"""Compressed autograd functions: exact forward, and a backward that reads low-bit codes.

One idea, one file, which says what it keeps for backward and why its gradient is unbiased:

* `graph`, `neighborhood`, `intents`, `ripples`: how KGAT, KGCN and KGNN-LS, KGIN, and RippleNet
  pass messages;
* `ranking`: Bayesian personalised ranking (BPR) over normalised, concatenated layer outputs;
* `pointwise`: binary cross entropy of user-item scores;
* `transr`: the TransR loss of a batch of triples;
* `relation_matmul`: rows times the matrix of their relation;
* `lookup`: rows of embedding tables.

Everything a function keeps goes through `ctx.save_for_backward`. Parameters are kept by reference.
"""

from recbole_tinykg.functional.graph.adjacency import Adjacency, slot_keys
from recbole_tinykg.functional.graph.propagation import Propagation, propagate
from recbole_tinykg.functional.graph.targets import NodeRows
from recbole_tinykg.functional.intents.independence import dependence
from recbole_tinykg.functional.intents.interactions import Interactions
from recbole_tinykg.functional.intents.propagation import propagate_intents
from recbole_tinykg.functional.intents.relational_graph import RelationalGraph
from recbole_tinykg.functional.intents.step import Batch, IntentPropagation
from recbole_tinykg.functional.intents.summed_ranking import summed_bpr_loss
from recbole_tinykg.functional.lookup import SharedTable
from recbole_tinykg.functional.neighborhood.convolution import aggregate_neighborhood
from recbole_tinykg.functional.neighborhood.label_smoothness import label_smoothness_loss
from recbole_tinykg.functional.neighborhood.receptive_field import ReceptiveField
from recbole_tinykg.functional.neighborhood.relation_attention import BatchUsers, relation_attention
from recbole_tinykg.functional.pointwise import pointwise_loss
from recbole_tinykg.functional.ranking import bpr_loss, normalized_rows
from recbole_tinykg.functional.relation_matmul import relation_matmul
from recbole_tinykg.functional.ripples.loss import Penalty, ripple_loss
from recbole_tinykg.functional.ripples.memories import FactTable
from recbole_tinykg.functional.ripples.memory_reading import Weights
from recbole_tinykg.functional.ripples.scores import ItemScores, pair_scores
from recbole_tinykg.functional.transr import transr_loss

__all__ = [
    "Adjacency",
    "Batch",
    "BatchUsers",
    "FactTable",
    "IntentPropagation",
    "ItemScores",
    "Interactions",
    "NodeRows",
    "Penalty",
    "Propagation",
    "ReceptiveField",
    "RelationalGraph",
    "SharedTable",
    "Weights",
    "aggregate_neighborhood",
    "bpr_loss",
    "dependence",
    "label_smoothness_loss",
    "normalized_rows",
    "pair_scores",
    "pointwise_loss",
    "propagate",
    "propagate_intents",
    "relation_attention",
    "relation_matmul",
    "ripple_loss",
    "slot_keys",
    "summed_bpr_loss",
    "transr_loss",
]
