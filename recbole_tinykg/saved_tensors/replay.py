"""The pack hook of a block whose decisions are replayed from a `recording`: no dispatch mode.

Only what depends on operations comes from the recording: what a derivative needs, whether a
storage was packed anew, and how rows were gathered. What depends on the tensor is decided here as
under the mode: references, sizes, shared storages, sites of noise. So the codes are the same.

Where the program leaves the recording, the rest of the block is kept exactly, and the next block
records again. Three checks make sure that no gradient is wrong where it leaves it unseen:

* codes are unpacked for no node but that of the recorded operation: else an error;
* rows are gathered again only as the autograd graph says (`derivation`), from tables that have not
  changed since the block began; a later change is an error, as for any table;
* what is shared is shared by storage and version.

One thing cannot be seen: a change through `.data` of gathered rows or of an activation, in this
step but not in the recorded one.
"""

from __future__ import annotations

import sys

from torch import Tensor

from recbole_tinykg.saved_tensors.block import FUNCTION_APPLY, Block
from recbole_tinykg.saved_tensors.needs import Need
from recbole_tinykg.saved_tensors.packed import Reference
from recbole_tinykg.saved_tensors.recording import Cursor, Plan, Save
from recbole_tinykg.saved_tensors.storage import PackedTensor


class Replay:
    """The pack hook of one `with` block.

    Args:
        block: Packs what has been decided.
        plan: The decisions.
    """

    def __init__(self, block: Block, plan: Plan) -> None:
        self._block, self._cursor = block, Cursor(plan)
        plan.hit()

    def pack(self, tensor: Tensor) -> PackedTensor | Reference:
        """Return what autograd owns in place of a tensor that is being saved: the pack hook."""
        detached = tensor.detach()  # an output must not hold its own graph
        if not self._block.may_be_codes(tensor):
            return self._block.refer(detached)
        packed = PackedTensor()
        frame = sys._getframe(1)
        save = self._cursor.find(frame)
        if save is not None and save.need is Need.NOTHING:
            if self._recompute(packed, tensor, save):
                return packed
            save = None
            self._cursor.miss()
        is_exact = save is None or frame.f_code is FUNCTION_APPLY
        need = Need.EXACT if is_exact or save is None or save.need is None else save.need
        self._block.pack(packed, detached, need, anew=save is not None and save.is_new)
        if save is not None and save.reader is not None:
            packed.check = save.reader.check
        return packed

    def _recompute(self, packed: PackedTensor, tensor: Tensor, save: Save) -> bool:
        """Pack rows as their derivation; False if the graph does not show it."""
        base = tensor if tensor._base is None else tensor._base
        derivation = save.derivations.get(None) or save.derivations.get(base.shape)
        rows = derivation and derivation.match(tensor, self._block.sources)
        if not rows:
            return False
        packed.packed = rows
        packed.geometry = tensor.shape, tensor.stride(), tensor.storage_offset()
        return True
