"""What a simulation refuses: reading values that it does not have."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

from recbole_tinykg.errors import UserError
from recbole_tinykg.memory.simulation.fake_storage import HollowTensors

_READERS = ("tolist", "numpy", "__array__", "__dlpack__")


class SimulationError(UserError):
    """A step whose memory depends on values that a simulation does not have."""


class ReadingGuard(TorchFunctionMode):
    """Refuses what reads a hollow tensor's memory past the operators.

    Args:
        hollow: The tensors whose values are unknown.
    """

    def __init__(self, hollow: HollowTensors) -> None:
        """Guard them."""
        super().__init__()
        self._hollow = hollow

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at what is called, and call it."""
        if getattr(func, "__name__", "") in _READERS and args and args[0] in self._hollow:
            raise refusal(f"Tensor.{func.__name__}", "it reads values")
        return func(*args, **(kwargs or {}))


def refusal(what: Any, reason: str) -> SimulationError:
    """The error for an operator that cannot be simulated."""
    return SimulationError(
        f"the model's step cannot be simulated: {what} on values that are not computed, and "
        f"{reason}; --measure runs the step instead"
    )
