"""`recbole-tinykg tune`: searches parameters and bits with Ray Tune.

* `command`: flags, and the Python function `tune`;
* `spaces`, `search_files`: what may be tried, and the files that say so;
* `options`, `study`: one search: what was asked for, checked, kept in `search.json`;
* `trial`: what a worker runs: train, report the validation metric every epoch;
* `records`: the outcome of a trial: `trial.json`, `trials.csv`, `trials.jsonl`;
* `objectives`: metric, memory and time; the Pareto front;
* `cluster`, `engine`: Ray: starts or joins a cluster; searcher, scheduler, callbacks;
* `report`: tables and the picture of the front.

Ray is imported only in `engine` and `cluster`, and by `trial` inside a worker. Importing the
package loads none of them: a worker chooses its GPU before it imports PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_tinykg.commands.tune.command import TuneResult, run, tune

__all__ = ["TuneResult", "run", "tune"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recbole_tinykg.commands.tune import command

    return getattr(command, name)
