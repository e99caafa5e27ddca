"""Adam in one kernel: on large embedding tables several times faster than one per operation."""

from __future__ import annotations

from typing import Any

import torch


def fuse(optimizer: Any) -> torch.optim.Optimizer:
    """Return the same optimizer in one fused kernel, or itself where there is none."""
    groups = [{**group, "fused": True} for group in optimizer.param_groups]
    try:
        result = type(optimizer)(groups, fused=True)
    except RuntimeError:
        return optimizer
    result.register_step_post_hook(_count_versions)
    return result


def _count_versions(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Tell autograd that parameters changed in place, which the fused kernel does not do."""
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version(p for p in group["params"] if p.grad is not None)
