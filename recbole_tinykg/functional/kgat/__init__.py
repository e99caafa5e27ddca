"""KGAT's graph layers: every node gets messages along a fixed sparse matrix.

`propagation` is the stack of layers as one autograd function; `aggregators` the arithmetic of one
row block; `saved_layer` what a layer keeps; `targets` the rows that a layer computes. The matrix is
`graph.adjacency`, its blocks `graph.row_blocks`.
"""
