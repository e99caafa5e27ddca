"""`recbole-tinykg evaluate`: validation and test metrics of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_tinykg.commands.flags import checkpoint_changes, named_file
from recbole_tinykg.commands.report import metrics_table
from recbole_tinykg.quick_start import restore
from recbole_tinykg.quick_start.results import plain_metrics


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Print the metrics of `--checkpoint`; parameters win over those it was trained with."""
    checkpoint = named_file(flags, "checkpoint")
    print(metrics_table(evaluate(checkpoint, checkpoint_changes(parameters))))


def evaluate(
    checkpoint: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint on the splits of its run.

    Args:
        checkpoint: File that a run of ours wrote.
        changes: Parameters that win over the checkpoint's, such as `topk`.

    Returns:
        Metrics of `valid` and of `test`.

    Raises:
        CheckpointError: Not a checkpoint of ours, a damaged one, or one of another training split.
        ConfigurationError: The data set is missing, or a changed parameter cannot be used.
    """
    experiment = restore(checkpoint, changes)
    trainer, show_progress = experiment.trainer, experiment.config["show_progress"]
    trainer.eval_collector.data_collect(experiment.train_data)  # some metrics need popularities
    results = {}
    for split, data in (("valid", experiment.valid_data), ("test", experiment.test_data)):
        metrics = trainer.evaluate(data, load_best_model=False, show_progress=show_progress)
        results[split] = plain_metrics(metrics) or {}
    return results
