"""The `with` block: hooks that pack what is saved, a mode that tells them for which operation.

A pack hook is not told which operation saves. A dispatch mode sees every operation, but only below
autograd: after an operation has saved its arguments, before it saves its outputs::

    pack(a), pack(b)   mode(mul)   pack(y), pack(y)   mode(mm)
    `- mul's arguments             |        `- an argument of mm
                                   `- an output of the last operation, if its node saves outputs

So a tensor waits, as it is, for the next operation. An operation makes its autograd node, saves
its arguments, and runs: if a node was made since the tensor was saved, or the operation has none,
something else saved the tensor (an operation in place on a view, a C++ `autograd::Function`), and
it is kept exactly. A Python `autograd.Function` saves without an operation and is recognised by the
frame that calls the hook.

The mode is slow. A block whose loss has been recorded by an earlier one does without (`replay`).

All state belongs to one block, and hooks and mode to the thread that opened it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_tinykg.quantization import NoiseStreams, Quantizer
from recbole_tinykg.quantization.quantizer import UNCOMPRESSED, Rounding
from recbole_tinykg.saved_tensors.block import FUNCTION_APPLY, Block, count_nodes
from recbole_tinykg.saved_tensors.derivation import derive
from recbole_tinykg.saved_tensors.gathers import Gathers, storage_id
from recbole_tinykg.saved_tensors.needs import (
    Need,
    is_cheap,
    is_gather,
    need_of_argument,
    need_of_output,
    written_tensors,
)
from recbole_tinykg.saved_tensors.packed import OuterHooks, Reference
from recbole_tinykg.saved_tensors.recording import Cursor, Plan, Recording, Save
from recbole_tinykg.saved_tensors.replay import Replay
from recbole_tinykg.saved_tensors.storage import PackedTensor, Packing

_CONTAINERS = (list, tuple, dict)
_unpack = operator.methodcaller("unpack")


@contextmanager
def compressed_saves(
    model: nn.Module | None = None,
    bits: int = 2,
    *,
    rounding: Rounding = "stochastic",
    streams: NoiseStreams | None = None,
    resident: Iterable[Tensor] = (),
    min_saved_bytes: int = 4096,
    recording: Recording | None = None,
) -> Iterator[None]:
    """Pack what the block's forward saves for backward as codes.

    Kept by reference, never copied, are parameters, buffers and other tensors of `model`, other
    leaves that require gradients, integers, booleans, sparse tensors, small tensors, and whatever a
    derivative needs exactly. A view is unpacked as a view of its unpacked storage.

    Args:
        model: Parameters, buffers and tensor attributes of its modules, as they are when the block
            begins, are kept by reference, and rows gathered from them are gathered again.
        bits: 1, 2, 4, 8, or 32 for a block that does nothing.
        rounding: "stochastic", or "nearest" with less noise and a bias.
        streams: Noise; each block takes its next step. None: the same noise in every block.
        resident: Tensors that stay in memory anyway, such as the batch: kept by reference, too.
        min_saved_bytes: Codes must save at least this much of a storage, and half of it.
        recording: What earlier blocks of the same loss have decided, to be replayed: much faster.
            None: decide anew.

    Raises:
        ConfigurationError: `bits` or `rounding` is none of the values above.
    """
    quantizer = Quantizer(bits, rounding)
    if bits == UNCOMPRESSED:
        yield
        return
    stream = (NoiseStreams(0, 1) if streams is None else streams).advance()[0]
    given = list(resident)
    plan = None if recording is None else recording.plan(model, given)
    packing = Packing(quantizer, stream, OuterHooks.current(), min_saved_bytes)
    block = Block([*given, *_tensors_of(model)], packing)
    if plan is not None and plan.is_complete:
        with torch.autograd.graph.saved_tensors_hooks(Replay(block, plan).pack, _unpack):
            yield
        return
    mode = _PackingMode(block, plan)
    with torch.autograd.graph.saved_tensors_hooks(mode.pack, _unpack), mode:
        try:
            yield
        finally:
            mode.pack_waiting()
    if plan is not None:
        plan.is_complete = True


class _Waiting(NamedTuple):
    """A tensor of which it is not known yet who saves it."""

    tensor: Tensor
    need: Need  # as an output; NOTHING: it is an argument
    num_nodes: int  # made when it was saved
    packed: PackedTensor
    save: Save | None  # its place in the plan


class _PackingMode(TorchDispatchMode):
    """The pack hook of one `with` block, and the mode that tells it the operations.

    Args:
        block: Packs what has been decided.
        plan: Gets the decisions; None: nobody does.
    """

    def __init__(self, block: Block, plan: Plan | None) -> None:
        super().__init__()
        self._block = block
        self._cursor = None if plan is None else Cursor(plan)
        self._gathers = Gathers(block.outer)
        self._waiting: list[_Waiting] = []
        self._last_func: OpOverload | None = None
        self._last_outputs: set[int] = set()  # storages that it may still save

    def pack(self, tensor: Tensor) -> PackedTensor | Reference:
        """Return what autograd owns in place of a tensor that is being saved: the pack hook."""
        packed = PackedTensor()
        with torch._C._DisableTorchDispatch():
            detached = tensor.detach()  # an output must not hold its own graph
            if not self._block.may_be_codes(tensor):
                return self._block.refer(detached)
        packed.waiting = detached
        frame = sys._getframe(1)
        save = None if self._cursor is None else self._cursor.record(frame)
        if frame.f_code is FUNCTION_APPLY:
            with _autograd_keys():
                self._pack(_Waiting(tensor, Need.EXACT, 0, packed, save), Need.EXACT, None)
        else:
            need = self._need_of_output(tensor)  # asking a view for its node may make one
            self._waiting.append(_Waiting(tensor, need, count_nodes(), packed, save))
        return packed

    def pack_waiting(self, func: OpOverload | None = None, args: tuple[Any, ...] = ()) -> None:
        """Pack the tensors that wait, now that everything that can have saved them is known."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        has_node = torch.is_grad_enabled() and any(
            isinstance(arg, Tensor) and arg.requires_grad for arg in args
        )
        num_nodes = count_nodes() if has_node else None
        with _autograd_keys():
            for saved in waiting:
                need, saver = saved.need, self._last_func
                if need is Need.NOTHING:
                    is_saver = num_nodes == saved.num_nodes
                    need = need_of_argument(func, args, saved.tensor) if is_saver else Need.EXACT
                    saver = func
                self._pack(saved, need, saver)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation unchanged, and note what it tells about saved tensors."""
        kwargs = kwargs or {}
        if self._block.in_backward():
            return func(*args, **kwargs)
        self.pack_waiting(func, args)
        for tensor in written_tensors(func, args, kwargs):
            self._before_change(tensor)
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple | list) else (result,)
        self._last_func, self._last_outputs = func, {storage_id(out) for out in outputs}
        if is_gather(func) and storage_id(args[0]) in self._block.resident:
            self._gathers.note(func, args, kwargs, result)
        elif is_cheap(func):
            self._gathers.note_derived(func, args, kwargs, result, self._block.resident)
        return result

    def _need_of_output(self, tensor: Tensor) -> Need:
        """Return what the last operation needs of its output, once; NOTHING for arguments."""
        key = storage_id(tensor)
        if self._last_func is None or key not in self._last_outputs or tensor.grad_fn is None:
            return Need.NOTHING
        need = need_of_output(self._last_func, tensor.grad_fn)
        if need is not Need.EXACT:
            self._last_outputs.discard(key)
        return need

    def _pack(self, saved: _Waiting, need: Need, saver: OpOverload | None) -> None:
        """Pack a tensor that waited; call this in `_autograd_keys`."""
        packed = saved.packed
        detached, packed.waiting = packed.waiting, None
        assert detached is not None
        packed.packed = self._gathers.pack(detached)
        if packed.packed is not None:
            packed.geometry = detached.shape, detached.stride(), detached.storage_offset()
            self._record_rows(saved)
            return
        is_new = self._block.pack(packed, detached, need)
        if self._cursor is not None and saved.save is not None:
            packed.check = self._cursor.plan.decide(saved.save, need, saver, is_new=is_new)

    def _record_rows(self, saved: _Waiting) -> None:
        if self._cursor is not None and saved.save is not None:
            origin = self._gathers.origin_of(saved.tensor)
            sources = self._block.sources
            derivation = None if origin is None else derive(saved.tensor, origin, sources)
            self._cursor.plan.decide_rows(saved.save, derivation)

    def _before_change(self, tensor: Tensor) -> None:
        """Keep saved rows that were read from a storage that is about to change; forget it."""
        key = storage_id(tensor)
        with _autograd_keys():
            if self._gathers.before_change(key) and self._cursor is not None:
                self._cursor.plan.give_up()  # a block without a mode would not see the change
        self._block.forget(key)


@contextmanager
def _autograd_keys() -> Iterator[None]:
    """Work as above autograd: below, `detach` returns tensors that miss changes in place."""
    key = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(key.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(key.ADInplaceOrView, False),
        torch.no_grad(),
    ):
        yield


def _tensors_of(model: nn.Module | None) -> list[Tensor]:
    """Return the tensors that modules hold, also as elements of a list, a tuple or a dictionary.

    It does not look deeper: RippleNet holds 5,661 for ml-100k, which would take 0.3 s a step.
    """
    tensors: list[Tensor] = []
    for module in () if model is None else model.modules():
        for value in vars(module).values():
            if isinstance(value, _CONTAINERS):
                tensors.extend(_elements(value))
            elif isinstance(value, Tensor):
                tensors.append(value)
    return tensors


def _elements(held: Any) -> Iterable[Tensor]:
    """Return the tensors in a container of tensors, maybe with None among them."""
    parts = held.values() if isinstance(held, dict) else held
    first = next((part for part in parts if part is not None), None)
    is_of_tensors = isinstance(first, Tensor)
    return [part for part in parts if isinstance(part, Tensor)] if is_of_tensors else ()
