"""Compressed autograd functions: exact forward, and a backward that reads low-bit codes.

Each file holds one idea, and says what it saves for backward and why its gradient is unbiased.
Those that are not one model's message passing are exported here:

* `bpr`: Bayesian personalised ranking over normalised, concatenated layer outputs;
* `cross_entropy`: binary cross entropy of user-item scores;
* `transr`: the TransR loss of a batch of triples;
* `relation_matmul`: rows times the matrix of their relation.

All share `autograd`, the decorators of every function, `rows`, sums of rows into a map, and
`relation_rows`, products of rows with the matrix of each relation.

How each model passes messages is a folder of its own, which exports what the model uses: `kgat`,
`kgcn` (also KGNN-LS), `kgin`, `ripplenet`.

Everything saved goes through `ctx.save_for_backward`; parameters are saved by reference. A function
that draws noise has an `add_..._sites` next to it, which names its sites in order.
"""

from recbole_tinykg.functional.bpr import add_bpr_sites, bpr_loss, normalized_rows
from recbole_tinykg.functional.cross_entropy import add_pointwise_sites, pointwise_loss
from recbole_tinykg.functional.relation_matmul import relation_matmul
from recbole_tinykg.functional.transr import transr_loss

__all__ = [
    "add_bpr_sites",
    "add_pointwise_sites",
    "bpr_loss",
    "normalized_rows",
    "pointwise_loss",
    "relation_matmul",
    "transr_loss",
]
