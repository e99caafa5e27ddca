"""What a run captures, writes and puts back; files are whole or absent, and run no code.

* `checkpoint`: a run's state as one file, checked when it is written and when it is opened;
* `run_files`: `<run>.pth` of the best epoch, `<run>-last.pth` of the last, `<run>.json`;
* `plain`: `to_plain` and `from_plain`, for any state of a model;
* `random_state`, `module_state`: captured, put back, preserved around a block;
* `safe_write`: a file that replaces another only once it is whole.
"""

from recbole_tinykg.checkpoint.checkpoint import (
    check_class,
    check_config,
    check_dataset,
    check_model,
    check_unfinished,
    check_writable,
    dataset_fingerprint,
    duplicate,
    load,
    model_state,
    restore_model,
    save,
)

__all__ = [
    "check_class",
    "check_config",
    "check_dataset",
    "check_model",
    "check_unfinished",
    "check_writable",
    "dataset_fingerprint",
    "duplicate",
    "load",
    "model_state",
    "restore_model",
    "save",
]
