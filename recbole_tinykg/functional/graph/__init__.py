"""KGAT's graph layers: every node gets messages along a fixed sparse matrix.

`propagation` is the stack of layers as one autograd function; `aggregators` the arithmetic of one
row block; `kept` what a layer keeps; `row_blocks` the blocks; `adjacency` the matrix; `targets` the
rows that a layer computes.
"""
