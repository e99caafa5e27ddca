"""KGAT's graph layers: every node gets messages along a fixed sparse matrix.

`propagation` is the stack of layers as one autograd function, `aggregators` the arithmetic of one
row block, `saved_layer` what a layer saves, `targets` the rows that a layer computes. The matrix is
in `graph.adjacency`, its blocks in `graph.row_blocks`.
"""

from recbole_tinykg.functional.kgat.propagation import Propagation, add_propagation_sites, propagate

__all__ = ["Propagation", "add_propagation_sites", "propagate"]
