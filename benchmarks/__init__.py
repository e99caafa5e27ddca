"""Measurements behind every claim of speed, memory and accuracy; `results/` has what they found.

* `suite/`: every twin against its stock model and the alternatives (`make bench`);
* `gpu/`: one command that builds, checks and measures on a bare machine with a GPU;
* `growth/`: time and memory against the size of the graph;
* `synthetic_data/`: data sets of any size, as RecBole's files or as arrays, for both and the tests;
* a script for each further question: `accuracy`, `allocation`, `batches`, `gradient_noise`,
  `kernels`, `loading`, `one_binary`, `optimizer_state`, `plan`, `spmm`.

Run from the repository: `python -m benchmarks.suite.run`, `python -m benchmarks.kernels`.
"""
