"""What tests share.

* `conformance`, `twin_case`: the tests that every twin inherits, and what a model supplies;
* `datasets`, `graphs`: data sets and graphs made for tests; `stock`: RecBole's own models;
* `operators`: difficult inputs of the operators; `identical`: equality to the bit;
* `unbiased`: when a mean over noise proves a gradient unbiased;
* `paths`: all paths by plain enumeration; `saved_tensors`: what autograd has saved;
* `troubled`: the commands of the troubleshooting page.
"""
