"""Graphs as tensors: CSR matrices, neighbour tables and ripple sets, built once, kept resident.

* `triples`, `from_recbole`: heads, relations and tails, and how to get them from a data set;
* `csr`: row pointers, and places of rows, as `ops.spmm` takes them;
* `distinct`: the distinct users or items of a batch, with shapes that depend on data or not;
* KGAT: `attention` in an `adjacency`, which is handled in `row_blocks` or at some `node_rows`;
* KGCN, KGNN-LS: `neighbors`, sampled once; `receptive_field` follows them hop by hop;
* KGIN: `relational_graph`, made of `paired_edges` (entities) and `interactions` (users);
* RippleNet: `ripple_sets` of all users, and the `ripple_memories` of a batch.

Their sums and products know no autograd: `functional` builds on them and saves what backward needs.
"""
