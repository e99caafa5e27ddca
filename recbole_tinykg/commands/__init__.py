"""The command line: a module or package per command, named as typed.

* `cli`: arguments to a command; `catalogue`: every command's flags and help;
* `train`, `evaluate`, `convert`, `recommend/`, `compare/`, `plan/`, `tune/`: each has
  `run(flags, parameters)`; Ray is imported only under `tune/`;
* `flags`, `report`, `child`: shared: flags read, tables printed, processes started.
"""
