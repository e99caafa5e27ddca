"""Refuses what reads values that a simulation does not have."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

from recbole_tinykg.errors import UserError
from recbole_tinykg.memory.simulation.fake_storage import UnknownTensors

_READERS = ("tolist", "numpy", "__array__", "__dlpack__")


class SimulationError(UserError):
    """A step whose memory depends on values that a simulation does not have."""


class ReadGuard(TorchFunctionMode):
    """Refuses methods that read an unknown tensor's memory without an operator.

    Args:
        unknown: The tensors whose values are unknown.
    """

    def __init__(self, unknown: UnknownTensors) -> None:
        super().__init__()
        self._unknown = unknown

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _READERS and args and args[0] in self._unknown:
            raise refusal(f"Tensor.{func.__name__}", "it reads values")
        return func(*args, **(kwargs or {}))


def refusal(what: Any, reason: str) -> SimulationError:
    """Make the error for an operator that cannot be simulated."""
    return SimulationError(
        f"the model's step cannot be simulated: {what} on values that are not computed, and "
        f"{reason}; --measure runs the step instead"
    )
