"""What a run leaves for programs: plain metrics, and `<run>.json` beside the checkpoint."""

from __future__ import annotations

import json
import math
import platform
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import recbole
import torch

from recbole_tinykg.checkpoint.safe_write import write_whole
from recbole_tinykg.config import Config

if TYPE_CHECKING:
    from recbole.data.dataset import Dataset


def plain_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return RecBole's metrics (NumPy scalars under NumPy 2) as plain floats; None stays None."""
    return None if metrics is None else {name: float(value) for name, value in metrics.items()}


def pairs_checksum(dataset: Dataset) -> int:
    """Return a checksum of the (user, item) pairs of a split, whatever their order."""
    users, items = (dataset.inter_feat[f].numpy() for f in (dataset.uid_field, dataset.iid_field))
    return zlib.crc32(np.sort(users * dataset.item_num + items).tobytes())


def write_result(path: Path, result: Mapping[str, Any], config: Config) -> None:
    """Write a run's result with its configuration and versions, whole or not at all.

    Args:
        path: The file, replaced if it exists.
        result: As `run_recbole_tinykg` returns it.
        config: Configuration of the run.

    Raises:
        UserError: The folder or the disk does not take the file.
    """
    content = {
        **result,
        "config": config.to_plain(),
        "device": str(config["device"]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "recbole": recbole.__version__,
        },
    }
    text = json.dumps(_without_infinities(content), indent=2, allow_nan=False)
    write_whole(path, text + "\n", "result")


def _without_infinities(value: Any) -> Any:
    """Replace infinity and NaN, for which JSON has no numbers, by null."""
    if isinstance(value, Mapping):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
