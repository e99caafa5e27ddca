"""`recbole-tinykg compare`: stock models against their twins, paired by seed.

* `command`: the flags, and the Python function `compare`;
* `runs`: what is asked for, and which runs that takes;
* `process`, `worker`: each run in a process of its own;
* `folder`: finished runs, kept;
* `statistics`, `tables`, `chart`, `tensorboard`: the results.
"""

from recbole_tinykg.commands.compare.command import Comparison, compare, run

__all__ = ["Comparison", "compare", "run"]
