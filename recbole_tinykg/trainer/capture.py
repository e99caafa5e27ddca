"""Captures functions as CUDA graphs, and clears up after a capture that CUDA has refused.

A capture runs a function once on a stream of its own and notes what it launches; nothing is
computed. PyTorch gives the graph a private pool of memory; all graphs of one `CudaGraphs` share it,
so nothing in it may outlive a replay.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch


class Graphs(Protocol):
    """What captures functions: `CudaGraphs`, or a stand-in for tests without a GPU."""

    device: torch.device

    def warm_up(self) -> AbstractContextManager[None]:
        """Run the block as a capture would run it."""

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return a function that repeats what `function` launches; nothing is computed now."""


class CudaGraphs:
    """Captures on a stream of its own, into memory that all its graphs share."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._captured: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self._failed: list[torch.cuda.CUDAGraph] = []

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Run the block on the stream of captures."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Return the replay of a function's launches.

        Other threads may go on calling CUDA meanwhile, as the one that pins batches does.
        """
        graph = torch.cuda.CUDAGraph()
        shared = next((other.pool() for other in self._captured), None)
        pool = shared or torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(self.device)
        try:
            with self._capturing(graph, pool):
                function()
        except BaseException:
            self._leave_capture(graph, pool, current)
            raise
        self._captured.add(graph)
        return graph.replay

    def _leave_capture(self, graph: Any, pool: Any, current: torch.cuda.Stream) -> None:
        """Do what PyTorch leaves undone where CUDA has refused an operation of a capture.

        Until then it works on the stream of the capture, its allocator refuses to empty the cache,
        and its generator, which a capture that succeeds puts right, refuses to draw.
        """
        torch.cuda.set_stream(current)
        self._failed.append(graph)  # the allocator of pinned memory may still ask it
        index = self._stream.device_index
        with suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
        with suppress(RuntimeError), self._capturing(torch.cuda.CUDAGraph(), None):
            torch.zeros(1, device=self.device)
        torch.cuda.set_stream(current)

    def _capturing(self, graph: Any, pool: Any) -> AbstractContextManager[None]:
        return torch.cuda.graph(
            graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
        )
