"""KGIN's hops: sums along relational paths, guided by intents.

`propagation` is all hops as one autograd function, `step` what is fixed for a step (with
`edge_sampling`), `guidance` the users' side, `unit_rows` normalisation, `summed_bpr` the loss,
`independence` the regulariser of the intents. The fixed patterns are `graph.relational_graph`.
"""
