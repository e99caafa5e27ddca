"""Paths through the knowledge graph by the attention that a model has learned.

* `finder`: which models have attention, and what finds paths by it;
* `attention`: of KGAT, KGCN and KGNN-LS; `ripples`: of RippleNet;
* `search`: the best paths by any attention; `knowledge`: the graph's names, and a path's.
"""
