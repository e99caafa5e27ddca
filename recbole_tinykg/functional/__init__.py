"""Compressed autograd functions: exact forward, and a backward that reads low-bit codes.

One file per function. Each says what it keeps for backward and why its gradient is unbiased:

* `propagation`: the stack of graph layers of KGAT (with `aggregators`, the arithmetic of one row
  block, `adjacency`, the fixed sparse matrix, and `targets`, the rows that a layer computes);
* `ranking`: Bayesian personalised ranking (BPR) over normalised, concatenated layer outputs;
* `transr`: the TransR loss of a batch of triples;
* `neighborhood`: the graph convolution of KGCN and KGNN-LS over sampled neighbours, with
  `relation_attention`, the weights of the neighbours, and `receptive_field`, who they are;
* `pointwise`: binary cross entropy of user-item scores;
* `label_smoothness`: KGNN-LS' regulariser of the weights.
* `relational`: the hops of KGIN (with `relational_graph`, its fixed patterns, made of
  `paired_edges` and `interactions`, `intent_step`, what a step draws, `edge_sampling`, `intents`,
  and `unit_rows`);
* `summed_ranking`: BPR over sums of hops; `independence`: KGIN's regulariser of the intents.
* `ripple_loss`: RippleNet's whole loss (with `memories`, what a batch's users remember,
  `memory_reading`, `relation_products` and `fact_terms`, the arithmetic of its parts), and
  `ripple_scores` its scores;
* `transr`: the TransR loss of a batch of triples.

Everything a function keeps goes through `ctx.save_for_backward`. Parameters are kept by reference.
"""

from recbole_tinykg.functional.adjacency import Adjacency
from recbole_tinykg.functional.independence import dependence
from recbole_tinykg.functional.intent_step import Batch, IntentPropagation
from recbole_tinykg.functional.interactions import Interactions
from recbole_tinykg.functional.label_smoothness import label_smoothness_loss
from recbole_tinykg.functional.memories import FactTable
from recbole_tinykg.functional.memory_reading import Weights
from recbole_tinykg.functional.neighborhood import aggregate_neighborhood
from recbole_tinykg.functional.pointwise import pointwise_loss
from recbole_tinykg.functional.propagation import Propagation, propagate
from recbole_tinykg.functional.ranking import bpr_loss, normalized_rows
from recbole_tinykg.functional.receptive_field import ReceptiveField
from recbole_tinykg.functional.relation_attention import BatchUsers, relation_attention
from recbole_tinykg.functional.relational import propagate_intents
from recbole_tinykg.functional.relational_graph import RelationalGraph
from recbole_tinykg.functional.ripple_loss import Penalty, ripple_loss
from recbole_tinykg.functional.ripple_scores import item_scores, pair_scores
from recbole_tinykg.functional.summed_ranking import summed_bpr_loss
from recbole_tinykg.functional.targets import NodeRows
from recbole_tinykg.functional.transr import transr_loss

__all__ = [
    "Adjacency",
    "Batch",
    "BatchUsers",
    "FactTable",
    "IntentPropagation",
    "Interactions",
    "NodeRows",
    "Penalty",
    "Propagation",
    "ReceptiveField",
    "RelationalGraph",
    "Weights",
    "aggregate_neighborhood",
    "bpr_loss",
    "dependence",
    "item_scores",
    "label_smoothness_loss",
    "normalized_rows",
    "pair_scores",
    "pointwise_loss",
    "propagate",
    "propagate_intents",
    "relation_attention",
    "ripple_loss",
    "summed_bpr_loss",
    "transr_loss",
]
