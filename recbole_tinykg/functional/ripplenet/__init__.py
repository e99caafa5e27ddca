"""RippleNet's memories of facts, read by items.

`loss` is the whole loss as one autograd function: `graph.ripple_memories` finds the distinct facts
of a batch, `relation_products` multiplies by relation matrices, `memory_reading` lets items read,
`fact_terms` has the terms over facts. `scores` evaluates without a gradient.
"""
