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

Everything a function keeps goes through `ctx.save_for_backward`. Parameters are kept by reference.
"""

from recbole_tinykg.functional.adjacency import Adjacency
from recbole_tinykg.functional.label_smoothness import label_smoothness_loss
from recbole_tinykg.functional.neighborhood import aggregate_neighborhood
from recbole_tinykg.functional.pointwise import pointwise_loss
from recbole_tinykg.functional.propagation import Propagation, propagate
from recbole_tinykg.functional.ranking import bpr_loss, normalized_rows
from recbole_tinykg.functional.receptive_field import ReceptiveField
from recbole_tinykg.functional.relation_attention import BatchUsers, relation_attention
from recbole_tinykg.functional.targets import NodeRows
from recbole_tinykg.functional.transr import transr_loss

__all__ = [
    "Adjacency",
    "BatchUsers",
    "NodeRows",
    "Propagation",
    "ReceptiveField",
    "aggregate_neighborhood",
    "bpr_loss",
    "label_smoothness_loss",
    "normalized_rows",
    "pointwise_loss",
    "propagate",
    "relation_attention",
    "transr_loss",
]
