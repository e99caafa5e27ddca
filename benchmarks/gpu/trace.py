"""What a profile says of a step: how long the GPU worked, what was launched, who waited.

Read from the trace that `torch.profiler` exports, a list of events with category, name, start and
duration in microseconds. The GPU is busy while a kernel, a copy or a fill runs; where several run
at once the time counts once. Kernels of a CUDA graph appear one by one among the GPU's events,
while the program made one call. The program waits in calls that return when the GPU has finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")
LAUNCHES = ("Launch", "MemcpyAsync", "MemsetAsync")
WAITS = ("Synchronize", "cudaMemcpy", "cudaFree", "cudaMalloc")
NO_WAIT = ("Async", "cudaStreamIsCapturing", "cudaFreeHost")
NUM_NAMES = 12


def summarize(events: Iterable[Mapping[str, Any]], num_steps: int) -> dict[str, Any]:
    """Return the numbers of a step, of a trace of several.

    Returns:
        `busy_ms`, `kernels`, `launch_calls`, `graph_launches`, `waits` per step; `waits_by_name`
        and `busiest`, milliseconds by kernel, also per step.
    """
    events = [event for event in events if event.get("ph") == "X"]
    device = [event for event in events if event.get("cat") in ON_DEVICE]
    calls = [event["name"] for event in events if event.get("cat") in CALLS]
    waits = Counter(name for name in calls if is_wait(name))
    busiest: Counter[str] = Counter()
    for event in device:
        busiest[event["name"][:100]] += event["dur"]
    return {
        "busy_ms": covered(device) / 1e3 / num_steps,
        "kernels": sum(event["cat"] == "kernel" for event in device) / num_steps,
        "launch_calls": sum(any(word in name for word in LAUNCHES) for name in calls) / num_steps,
        "graph_launches": sum("GraphLaunch" in name for name in calls) / num_steps,
        "waits": waits.total() / num_steps,
        "waits_by_name": {name: count / num_steps for name, count in waits.most_common()},
        "busiest": {n: us / 1e3 / num_steps for n, us in busiest.most_common(NUM_NAMES)},
    }


def is_wait(name: str) -> bool:
    """Whether a call of CUDA's interface returns only when the GPU has finished something."""
    return name.startswith(("cuda", "cu")) and (
        any(word in name for word in WAITS) and not any(word in name for word in NO_WAIT)
    )


def covered(events: Iterable[Mapping[str, Any]]) -> float:
    """Return the microseconds in which at least one event runs."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted((e["ts"], e["ts"] + e["dur"]) for e in events):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
