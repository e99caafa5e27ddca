"""KGIN's hops: sums along relational paths, guided by intents.

`propagation` is all hops as one autograd function, `step` what is fixed for a step (with
`edge_sampling`), `relational_graph` the fixed patterns (made of `paired_edges` and `interactions`),
`guidance` the users' side, `unit_rows` normalisation, `summed_ranking` the loss, `independence` the
regulariser of the intents.
"""
