"""How much memory a device has free."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from recbole_tinykg.memory.meter import resident_bytes
from recbole_tinykg.quick_start import Experiment

_CGROUP = Path("/sys/fs/cgroup")


def room_for(experiment: Experiment) -> tuple[str, int]:
    """Return the device's name and the bytes it has for an experiment's model and its training.

    The model is built already, and what it takes counts as free; data sets and Python do not.
    """
    device = torch.device(experiment.config["device"])
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return torch.cuda.get_device_name(device), free + torch.cuda.memory_reserved(device)
    return "CPU", available_bytes() + sum(resident_bytes(experiment.model).values())


def available_bytes() -> int:
    """Return the memory that this process can still take: the machine's, or less in a container."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = int(dict(line.split() for line in lines).get("inactive_file", 0))  # gives way
        used = int((_CGROUP / "memory.current").read_text()) - cached
    except (OSError, ValueError):  # no container, or one without a limit
        return available
    return min(available, max(0, limit - used))
