"""KGCN's and KGNN-LS' view of an item: its sampled neighbours, weighted by the user.

`relation_attention` weighs the neighbours of a `graph.receptive_field`, `convolution` mixes their
vectors and `label_smoothness` their labels; `scores` evaluates all items without a gradient.
"""
