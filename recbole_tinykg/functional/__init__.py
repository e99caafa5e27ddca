"""Compressed autograd functions: exact forward, and a backward that reads low-bit codes.

One file per function. Each says what it keeps for backward and why its gradient is unbiased:

* `propagation`: the stack of graph layers of KGAT (with `aggregators`, the arithmetic of one row
  block, `adjacency`, the fixed sparse matrix, and `targets`, the rows that a layer computes);
* `ranking`: Bayesian personalised ranking (BPR) over normalised, concatenated layer outputs;
* `transr`: the TransR loss of a batch of triples.

Everything a function keeps goes through `ctx.save_for_backward`. Parameters are kept by reference.
"""

from recbole_tinykg.functional.adjacency import Adjacency
from recbole_tinykg.functional.propagation import Propagation, propagate
from recbole_tinykg.functional.ranking import bpr_loss, normalized_rows
from recbole_tinykg.functional.targets import NodeRows
from recbole_tinykg.functional.transr import transr_loss

__all__ = [
    "Adjacency",
    "NodeRows",
    "Propagation",
    "bpr_loss",
    "normalized_rows",
    "propagate",
    "transr_loss",
]
