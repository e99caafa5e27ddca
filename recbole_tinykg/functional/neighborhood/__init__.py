"""KGCN's and KGNN-LS' view of an item: its sampled neighbours, weighted by the user.

`receptive_field` says who the neighbours are, `relation_attention` weighs them, `convolution` mixes
their vectors and `label_smoothness` their labels; `scores` evaluates all items without a gradient.
"""
