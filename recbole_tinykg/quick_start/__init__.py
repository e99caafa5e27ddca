"""From names to a trained model: RecBole's `run_recbole`, step by step, draw by draw.

* `run`: `run_recbole_tinykg` trains, evaluates, and writes log, checkpoints and `<run>.json`;
* `experiment`: `prepare` builds everything and writes nothing, `restore` opens a checkpoint, and
  `load_data_and_model` does so in RecBole's form;
* `recbole_entry_points`: `register` makes RecBole's own functions accept the twins;
* `results`, `run_log`: the files of a run apart from its checkpoints.
"""

from recbole_tinykg.quick_start.experiment import Experiment, load_data_and_model, prepare, restore
from recbole_tinykg.quick_start.recbole_entry_points import register
from recbole_tinykg.quick_start.run import run_recbole_tinykg

__all__ = [
    "Experiment",
    "load_data_and_model",
    "prepare",
    "register",
    "restore",
    "run_recbole_tinykg",
]
