"""What several test files share.

* `conformance`, `twin_case`: the tests that every twin inherits, and what a model's tests supply;
* `static_conformance`: those of a twin with a static step; `fake_step`: a step without numbers;
* `recorded_graphs`: CUDA graphs on a CPU; `cuda_emulation`: CUDA kernels on a CPU;
* `datasets`, `graphs`: data sets and graphs made for tests; `stock`: RecBole's own models;
* `operators`: difficult inputs of the operators; `identical`: equality to the bit;
* `unbiased`: how close a mean over noise must come for a gradient to count as unbiased;
* `processes`: processes that say why they failed;
* `paths`: all paths by plain enumeration; `saved_tensors`: a net and its saved bytes;
* `troubled`: the broken files of the troubleshooting page.
"""
