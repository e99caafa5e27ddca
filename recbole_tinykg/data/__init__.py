"""RecBole's data sets, loaders and samplers: the same batches, bit for bit, in less time.

* `atomic_files`: reads RecBole's files with pandas' C parser where that is provably the same;
* `loaders`: training batches of interactions and of triples; `index_loader`: what they share;
* `negatives`: negative items and tails by rejection, vectorised;
* `full_sort`: evaluation over all items, many users at a time;
* `prefetch`: training batches drawn ahead by a thread, in pinned memory for a GPU;
* `upcoming`: the next batches of a loader, which it will give again.
"""
