"""`recbole-tinykg compare`: stock models against their twins, paired by seed.

* `command`: the flags, and the Python function `compare`;
* `runs`: which runs a request asks for; `process`, `worker`: each in a process of its own;
* `folder`: what is finished, and stays finished;
* `statistics`, `tables`, `chart`, `tensorboard`: what is made of it.
"""

from recbole_tinykg.commands.compare.command import Comparison, compare, run

__all__ = ["Comparison", "compare", "run"]
