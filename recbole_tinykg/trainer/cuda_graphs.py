r"""Training steps as CUDA graphs: a GPU does not wait for Python to launch kernels.

A step of a twin on ml-100k is a few hundred small kernels; the device computes them in a seventh of
the time in which Python launches them. A CUDA graph holds the launches of a whole step (forward,
backward, clipping, the optimizer's update) and starts them at once.

A twin with `static_shapes` gives every step of a phase the same launches: nothing is read back and
no shape depends on data, and what differs between steps is data on the device (the batch in fixed
inputs, the position of the noise streams, which every replay advances, Adam's step count, the sum
of the losses). So a replay computes what the step would.

The first `WARM_UP_STEPS` run one by one: one that the memory meter watches, and others on the
stream of the capture, in which libraries and optimizer make what they keep. The next full batch is
captured, and from then on every batch of its shape is a replay. A smaller batch, as the last one of
a pass, runs as before. A graph reads addresses and has settings in it; when a pass begins with
others (bits chosen anew, a state loaded, another learning rate), it is dropped and made again.

The graphs of all phases share one pool of memory, as nothing in it outlives a step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_tinykg.data.prefetch import on_device
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.ops import native_status
from recbole_tinykg.trainer.capture import CudaGraphs, Graphs
from recbole_tinykg.trainer.optimizers import capturable, is_capturable
from recbole_tinykg.trainer.phases import PHASES, phase_of
from recbole_tinykg.trainer.step import LossSum, TrainingStep

WARM_UP_STEPS = 3
"""Steps before a capture, the one that the meter watches among them."""


class StepGraphs:
    """The training steps of a trainer, those of each phase as a CUDA graph where that is possible.

    Args:
        trainer: A twin's trainer.
        graphs: What captures.
    """

    def __init__(self, trainer: Any, graphs: Graphs) -> None:
        self._trainer, self._graphs = trainer, graphs
        self._phases: dict[str, PhaseSteps] = {}

    @classmethod
    def of(cls, trainer: Any) -> StepGraphs | None:
        """Return those of a trainer on a GPU, None without `cuda_graphs` or without a GPU."""
        if trainer.device.type != "cuda" or not trainer.config["cuda_graphs"]:
            return None
        return cls(trainer, CudaGraphs(trainer.device))

    def begin_pass(self, loss_func: LossFunction) -> PhaseSteps:
        """Return what takes the steps of a pass over a loss function's phase."""
        phase = phase_of(loss_func)
        if phase not in self._phases:
            self._phases[phase] = PhaseSteps(PHASES[phase], self._trainer, self._graphs)
        steps = self._phases[phase]
        steps.begin_pass(loss_func)
        return steps


class PhaseSteps:
    """Takes the steps of one phase: the first ones one by one, then by replaying a graph.

    Args:
        name: Of the phase, for the log.
        trainer: The trainer.
        graphs: What captures.

    Attributes:
        losses: The sum of the losses of the current pass.
    """

    def __init__(self, name: str, trainer: Any, graphs: Graphs) -> None:
        self.losses = LossSum(checks_every_loss=False)
        self._name, self._trainer, self._graphs = name, trainer, graphs
        self._graph: StepGraph | None = None
        self._num_warm = 0
        self._failure: str | None = None
        self._told: set[str] = set()

    def begin_pass(self, loss_func: LossFunction) -> None:
        """Begin a pass; drop a graph that reads other addresses or settings than now."""
        self.losses.restart()
        self._step = TrainingStep(self._trainer, loss_func, self.losses)
        self._obstacle = self._failure or obstacle(self._trainer)
        self._full_size: int | None = None
        if self._graph and (self._obstacle or not self._graph.is_current(_state(self._trainer))):
            self._graph, self._num_warm = None, 0

    def take(self, batch: Interaction) -> None:
        """Take a step on a batch that lies on the host, pinned if the copy is not to wait.

        Raises:
            DivergenceError: One of the last steps' losses was NaN.
        """
        self._full_size = self._full_size or len(batch)
        is_warm = self._num_warm >= WARM_UP_STEPS and len(batch) == self._full_size
        if self._graph is None and not self._obstacle and is_warm:
            self._capture(batch)
        if self._graph is not None and self._graph.fits(batch):
            self._graph.replay(batch)
        else:
            self._take_alone(batch)
        self.losses.end_step()

    def _take_alone(self, batch: Interaction) -> None:
        if self._obstacle:
            level = logging.WARNING if self._failure else logging.INFO
            self._tell(f"steps are no CUDA graph: {self._obstacle}", level)
        elif self._graph is not None:
            self._tell("a batch of another size than most is no part of the CUDA graph")
        batch = on_device(batch, self._graphs.device)
        if self._num_warm == 0 or self._obstacle or self._graph is not None:
            self._step(batch)
        else:
            with self._graphs.warm_up():
                self._step(batch)
        self._num_warm += 1

    def _capture(self, batch: Interaction) -> None:
        columns = on_device(batch, self._graphs.device).interaction.items()
        inputs = _ReadColumns({name: column.clone() for name, column in columns})
        optimizer = self._trainer.optimizer
        optimizer.zero_grad()  # so that gradients are allocated in the graph's memory
        try:
            with capturable(optimizer):
                replay = self._graphs.capture(lambda: self._step(inputs))
        except RuntimeError as error:
            reason = error.__context__ or error  # what CUDA refused, not the end of the capture
            self._obstacle = self._failure = f"capturing failed ({_first_line(reason)})"
            return
        finally:
            optimizer.zero_grad()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._graph = StepGraph(replay, inputs.read(), parameters, _state(self._trainer))
        self._tell("steps are one CUDA graph from here on")

    def _tell(self, message: str, level: int = logging.INFO) -> None:
        if message not in self._told:
            self._told.add(message)
            logging.getLogger().log(level, f"{self._name}: {message}")


class StepGraph:
    """A captured step.

    Args:
        replay: Launches it.
        inputs: The columns that it reads.
        parameters: Those that it may change.
        state: The addresses that it reads, and the settings that are in it.
    """

    def __init__(
        self,
        replay: Callable[[], None],
        inputs: dict[str, Tensor],
        parameters: list[Tensor],
        state: tuple[dict[Any, int], Any],
    ) -> None:
        self._replay, self._inputs, self._parameters = replay, inputs, parameters
        self._addresses, self._settings = state

    def is_current(self, state: tuple[dict[Any, int], Any]) -> bool:
        """Whether what the step reads is still where it was; the optimizer may have more state."""
        addresses, settings = state
        return self._addresses.items() <= addresses.items() and self._settings == settings

    def fits(self, batch: Interaction) -> bool:
        """Whether a batch has the shapes and types of the inputs."""
        columns = batch.interaction
        return all(
            name in columns
            and columns[name].shape == column.shape
            and columns[name].dtype == column.dtype
            for name, column in self._inputs.items()
        )

    def replay(self, batch: Interaction) -> None:
        """Take the step on a batch on the host."""
        for name, column in self._inputs.items():
            column.copy_(batch.interaction[name], non_blocking=True)
        self._replay()
        torch.autograd.graph.increment_version(self._parameters)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class _ReadColumns(Interaction):
    """A batch that knows which of its columns were read."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        super().__init__(columns)
        self._read: dict[str, Tensor] = {}

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, str):
            self._read[index] = found
        return found

    def read(self) -> dict[str, Tensor]:
        """Return the columns that were read, by name."""
        return self._read


def obstacle(trainer: Any) -> str | None:
    """Say what keeps a trainer's steps from being CUDA graphs; None for nothing."""
    model, optimizer = trainer.model, trainer.optimizer
    if not getattr(model, "static_shapes", False):
        return f"shapes in a step of {type(model).__name__} depend on the data"
    if trainer.device.type == "cuda" and not native_status("cuda")[0]:
        return "there is no CUDA library, and plain PyTorch's sparse products wait for the device"
    if trainer.enable_scaler:
        return "a gradient scaler reads every step's gradients"
    if (trainer.clip_grad_norm or {}).get("error_if_nonfinite"):
        return "clip_grad_norm with error_if_nonfinite reads every step's gradients"
    if torch.is_anomaly_enabled():
        return "autograd's anomaly mode reads every gradient"
    if not is_capturable(optimizer):
        return f"{type(optimizer).__name__} counts its steps on the host"
    return None


def _state(trainer: Any) -> tuple[dict[Any, int], Any]:
    """Return the addresses that a step reads, by what lies there, and its settings."""
    model, optimizer = trainer.model, trainer.optimizer
    tensors: dict[Any, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[number, key] = value
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    trainers = trainer.clip_grad_norm, trainer.enable_amp
    return addresses, (settings, trainers, model.site_table)
