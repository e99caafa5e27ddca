"""Runs of a comparison in TensorBoard's HParams: a folder per run, with parameters and results."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from recbole_tinykg.commands.compare.folder import Line
from recbole_tinykg.commands.compare.runs import Request, Run
from recbole_tinykg.commands.compare.statistics import quantities

_STOCK = "stock"


def write(folder: Path, run: Run, line: Line, request: Request) -> None:
    """Write the TensorBoard folder of a finished run, unless it is there."""
    target = folder / run.name
    if target.exists():
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    parameters = {
        "model": run.model,
        "bits": _STOCK if run.bits is None else str(run.bits),
        "seed": run.seed,
        "learning_rate": request.config(run)["learning_rate"],
    }
    values = {f"{kind}/{name}": value(line) for kind, name, value in quantities([line])}
    results = {tag: float(value) for tag, value in values.items() if value is not None}
    temporary = folder / f".{run.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with SummaryWriter(str(temporary)) as writer:
        bits = {"bits": [_STOCK, *map(str, sorted(request.bits))]}
        for summary in hparams(parameters, results, bits):
            writer.file_writer.add_summary(summary)
        for name, value in results.items():
            writer.add_scalar(name, value)
    os.replace(temporary, target)
