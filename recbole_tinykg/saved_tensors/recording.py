"""What a block decided about each tensor that was saved, for later blocks of the same loss.

The dispatch mode of `context` costs some 70 microseconds of Python for every operation. What it
finds out about a save, what the derivative needs of the tensor, is the same in every step of a
training, so it is found out once. A *plan* is a tree of saves: the first save of a block leads to
the second, and so on. A save is recognised by its *place*: the instruction of Python that runs the
operation, and how many autograd nodes were made since the save before. Data that take another turn
take another branch, which is recorded when it is first met.

A place does not prove which operation saves (`act(x)` with another `act`), so nothing wrong may
follow from a mistake: codes are given to no autograd node but those of the recorded operation
(`Reader`), and rows are gathered again only if the autograd graph says that they were gathered so
(`derivation`).

Of the tree nothing is kept but code objects, names and weak references to parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from recbole_tinykg.saved_tensors.block import count_nodes
from recbole_tinykg.saved_tensors.derivation import Derivation
from recbole_tinykg.saved_tensors.needs import Need, base_name

Place = tuple[CodeType, int, int]
"""Code, instruction and nodes since the save before."""

CAN_REPLAY = hasattr(torch.autograd, "_get_sequence_nr") and hasattr(
    torch._C, "_current_autograd_node"
)
"""Whether this PyTorch tells how many nodes there are, and which one is reading."""

_MOST_PLANS = 32  # batch shapes of one loss; further ones are not recorded
_MOST_SAVES = 20_000
_MISSES_ALLOWED = 8
_READ_ONLY_WITH = {
    "PowBackward": ("_saved_exponent", 2),
    "LinalgVectorNormBackward": ("_saved_ord", 2),
}


class Reader:
    """The autograd node that codes were made for: the beginning of its name, and numbers it saves.

    Args:
        operation: Base name of the operation, such as `addmm`, whose node is `AddmmBackward0`.
        plan: Of which it is part.
    """

    def __init__(self, operation: str, plan: Plan) -> None:
        self._plan = plan
        camel = "".join(part.capitalize() for part in operation.split("_"))
        self._beginning = f"{camel}Backward"
        self._number = _READ_ONLY_WITH.get(self._beginning)

    def is_running(self) -> bool:
        """Whether it is this node that is reading now, or no backward is running."""
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return True
        if not node.name().startswith(self._beginning):
            return False
        return self._number is None or getattr(node, self._number[0], None) == self._number[1]

    def check_recording(self) -> None:
        """Give the plan up if another node reads, as where C++ code runs the node by itself."""
        if not self.is_running():
            self._plan.give_up()

    def check(self) -> None:
        """Raise RuntimeError unless it is this node that is reading."""
        if not self.is_running():
            self._plan.give_up()
            raise RuntimeError(
                "a recording of compressed_saves must be replayed with the operations that were "
                f"recorded; codes made for {self._beginning} are read by another operation at the "
                "same place, or with another exponent. The next block decides anew"
            )


class Save:
    """A save in the tree: what was decided, and which saves may follow."""

    __slots__ = ("derivations", "is_new", "need", "next", "reader")

    def __init__(self) -> None:
        self.need: Need | None = None  # None: not decided; NOTHING: rows that are recomputed
        self.reader: Reader | None = None  # of codes and signs
        self.is_new = False  # its storage had not been packed, or had changed
        self.derivations: dict[Any, Derivation] = {}  # of rows, by `Derivation.key`
        self.next: dict[Place, Save] = {}


class Plan:
    """The tree of saves of one loss with batches of one shape."""

    def __init__(self) -> None:
        self.first, self._size = Save(), 1
        self.is_complete = False  # the last block ran to its end along the tree
        self.is_given_up = False
        self.num_misses = self.num_replays = 0  # blocks that left the tree, that began in it

    def give_up(self) -> None:
        """Neither record nor replay any more, as something cannot be known without the mode."""
        self.is_given_up, self.first = True, Save()

    def miss(self) -> None:
        """Note that a block met what is not in the tree: the next one records it."""
        self.is_complete = False
        self.num_misses += 1
        if self.num_misses > max(_MISSES_ALLOWED, self.num_replays // 2):
            self.give_up()

    def hit(self) -> None:
        """Note that a block was replayed."""
        self.num_replays += 1

    def follow(self, save: Save, place: Place) -> Save:
        """Return the save at a place after another one, a new one if it was not met before."""
        following = save.next.get(place)
        if following is None:
            following = save.next[place] = Save()
            self._size += 1
            if self._size > _MOST_SAVES:
                self.give_up()
        return following

    def decide(
        self, save: Save, need: Need, saver: OpOverload | None, *, is_new: bool
    ) -> Callable[[], None] | None:
        """Note what a save's operation needs; two needs of one save cannot be told apart.

        Returns:
            A check, for when the tensor is unpacked, that autograd's node is the expected one.
        """
        if save.need not in (None, need):
            self.give_up()
            return None
        save.need = need
        save.is_new |= is_new
        if need is Need.EXACT or saver is None:
            return None
        save.reader = reader = Reader(base_name(saver), self)
        return reader.check_recording

    def decide_rows(self, save: Save, derivation: Derivation | None) -> None:
        """Note that a save's tensor is rows that are recomputed, and how the graph shows it."""
        if save.need not in (None, Need.NOTHING) or derivation is None:
            self.give_up()
            return
        save.need = Need.NOTHING
        save.derivations[derivation.key] = derivation


class Cursor:
    """A place in the tree while a block runs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._save: Save | None = plan.first
        self._num_nodes = count_nodes()

    def _place(self, frame: FrameType) -> Place:
        num_nodes = count_nodes()
        since, self._num_nodes = num_nodes - self._num_nodes, num_nodes
        return frame.f_code, frame.f_lasti, since

    def record(self, frame: FrameType) -> Save:
        """Go to the save that a frame makes; record it."""
        assert self._save is not None
        self._save = self.plan.follow(self._save, self._place(frame))
        return self._save

    def find(self, frame: FrameType) -> Save | None:
        """Go to the save that a frame makes; None, now and later, if it is not recorded."""
        if self._save is not None:
            save = self._save.next.get(self._place(frame))
            self._save = None if save is None or save.need is None else save
            if self._save is None:
                self.plan.miss()
        return self._save

    def miss(self) -> None:
        """Leave the tree."""
        self._save = None
        self.plan.miss()


class Recording:
    """What blocks of one loss have decided; give it to each block that computes this loss.

    The first block for each shape of a batch runs under the dispatch mode and records; the others
    replay. It may be copied and pickled with a model, and is then empty.
    """

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}

    def __reduce__(self) -> Any:
        """Copy and pickle it as an empty one: places and parameters are others elsewhere."""
        return Recording, ()

    def plan(self, model: nn.Module | None, resident: Iterable[Tensor]) -> Plan | None:
        """Return the plan for a batch; None if nothing is to be recorded or replayed."""
        if not CAN_REPLAY:
            return None
        key = model is not None and model.training, tuple(tensor.shape for tensor in resident)
        plan = self._plans.get(key)
        if plan is None and len(self._plans) < _MOST_PLANS:
            plan = self._plans[key] = Plan()
        return None if plan is None or plan.is_given_up else plan
