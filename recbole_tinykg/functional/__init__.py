"""Compressed autograd functions: exact forward, and a backward that reads low-bit codes.

One idea, one file, which says what it keeps for backward and why its gradient is unbiased:

* `kgat/`, `kgcn/` (also KGNN-LS), `kgin/`, `ripplenet/`: how each model passes messages;
* `bpr`: Bayesian personalised ranking over normalised, concatenated layer outputs;
* `cross_entropy`: binary cross entropy of user-item scores;
* `transr`: the TransR loss of a batch of triples;
* `relation_matmul`: rows times the matrix of their relation;
* `autograd`: guards that every function wears; `rows`: sums of rows into a map.

Everything a function keeps goes through `ctx.save_for_backward`. Parameters are kept by reference.
"""

from recbole_tinykg.functional.bpr import bpr_loss, normalized_rows
from recbole_tinykg.functional.cross_entropy import pointwise_loss
from recbole_tinykg.functional.kgat.propagation import Propagation, propagate
from recbole_tinykg.functional.kgcn.convolution import aggregate_neighborhood
from recbole_tinykg.functional.kgcn.label_smoothness import label_smoothness_loss
from recbole_tinykg.functional.kgcn.relation_attention import BatchUsers, relation_attention
from recbole_tinykg.functional.kgin.independence import dependence
from recbole_tinykg.functional.kgin.propagation import propagate_intents
from recbole_tinykg.functional.kgin.step import Batch, IntentPropagation
from recbole_tinykg.functional.kgin.summed_bpr import summed_bpr_loss
from recbole_tinykg.functional.relation_matmul import relation_matmul
from recbole_tinykg.functional.ripplenet.loss import Penalty, ripple_loss
from recbole_tinykg.functional.ripplenet.memory_reading import Weights
from recbole_tinykg.functional.ripplenet.scores import ItemScores, pair_scores
from recbole_tinykg.functional.transr import transr_loss

__all__ = [
    "Batch",
    "BatchUsers",
    "IntentPropagation",
    "ItemScores",
    "Penalty",
    "Propagation",
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
    "summed_bpr_loss",
    "transr_loss",
]
