"""One command for a bare machine with a GPU: build, check, measure, report.

    benchmarks/gpu/fetch_wheels DIR                 # where there is a package index
    benchmarks/gpu/run --wheels DIR                 # on the GPU's machine, without network
    benchmarks/gpu/run --device cpu                 # everything in small, to try the kit itself

* `driver`: runs the steps one after the other, each with a limit; `steps`: which, and how long;
* `wheels`: the packages that a run needs, fetched; `install`: unpacked, and the libraries built;
* `smoke`: all twins train on both devices; `cuda_tests`: the tests that need a GPU;
* `launches`: wall clock, busy time, launches and waits of a step; `trace`: read from a profile;
* `sanitizer`: compute-sanitizer over `operator_calls`, every operator on awkward shapes;
* `suite_cases`, `kernel_rates`: the benchmarks of `benchmarks/`, at the sizes asked for;
* `small_data`: what a trial on the CPU trains on;
* `bars`: the numbers asked for; `report`: JSON and Markdown of all that is known so far.
"""
