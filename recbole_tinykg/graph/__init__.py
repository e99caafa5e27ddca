"""Graphs as tensors: CSR adjacencies, neighbour tables and ripple sets, built once, kept resident.

* `from_recbole`: the edges and triples of a RecBole data set;
* KGAT: `attention` over an `adjacency` in `row_blocks`, read at `node_rows`;
* KGCN, KGNN-LS: `neighbors`, sampled once, followed by a `receptive_field`;
* KGIN: `relational_graph` of `interactions` and `paired_edges`;
* RippleNet: `ripple_sets`, and the `ripple_memories` of a batch.

Some of their products are autograd-free building blocks of `functional`; none keeps activations.
"""
