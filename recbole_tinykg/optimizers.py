"""Adam in one kernel: on large embedding tables several times faster than one per operation."""

from __future__ import annotations

from typing import Any

import torch


def fused(optimizer: Any) -> torch.optim.Optimizer:
    """The same optimizer in one kernel, much faster on large tables; itself where there is none."""
    groups = [{**group, "fused": True} for group in optimizer.param_groups]
    try:
        return type(optimizer)(groups, fused=True)
    except RuntimeError:
        return optimizer
