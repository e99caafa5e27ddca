"""How rows were gathered, read from the autograd graph: the proof that they may be gathered again.

The dispatch mode saw the gathers and what was computed from them (`gathers`). A block that replays
sees only the tensor that is saved, but its graph names the operations, the parameters and, by the
number of the node that saved it, each index. A `Derivation` is a recorded expression together with
what the graph must look like for it to be the same expression now::

    AddBackward0, alpha 1                         add(
      EmbeddingBackward0 <- parameter               embedding(parameter, index saved by the node),
      ExpandBackward0 <- SelectBackward0, 3 <- ..   parameter, as this view)

Only what the graph determines is derived: operations of tensors that require gradients, no scalars
added, views only of parameters. For all else `derive` returns None.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch._ops import OpOverload

from recbole_tinykg.embedding.shared_table import table_of_lookup
from recbole_tinykg.saved_tensors.gathers import (
    Origin,
    View,
    leaves_of,
    map_leaves,
    storage_id,
)
from recbole_tinykg.saved_tensors.needs import base_name
from recbole_tinykg.saved_tensors.packed import OuterHooks, Reference
from recbole_tinykg.saved_tensors.recomputed import Recomputed, RecomputedView

_NUMBERS: dict[str, tuple[str, ...]] = {  # by type of node: what it says besides its tensors
    "EmbeddingBackward0": (),
    "IndexSelectBackward0": ("_saved_dim",),
    "IndexBackward0": (),
    "ToCopyBackward0": (),
    "AddBackward0": ("_saved_alpha",),
    "SubBackward0": ("_saved_alpha",),
    "NegBackward0": (),
    "CatBackward0": ("_saved_dim",),
    "StackBackward0": ("_saved_dim",),
    "ExpandBackward0": ("_saved_self_sym_sizes",),
    "SelectBackward0": ("_saved_dim", "_saved_index", "_saved_self_sym_sizes"),
    "UnsqueezeBackward0": ("_saved_dim",),
}
_VIEWS = ("ExpandBackward0", "SelectBackward0", "UnsqueezeBackward0")
_WHOLE_ONLY = ("index", "_to_copy")  # no part of a sum: their nodes do not tell places or types


def _nothing() -> None:
    """Stand for an index that is not known, or not the only one."""


class Sources:
    """What a block's graph can be read against: the indices that were saved, and the tables.

    Args:
        tables: Parameters that stay in memory.
        outer: The hooks around the block.
    """

    def __init__(self, tables: list[Tensor], outer: OuterHooks) -> None:
        self._outer = outer
        self._versions = {id(table): table._version for table in tables}
        self._references: dict[int, Reference] = {}
        self._indices: dict[int, Callable[[], Reference | None]] = {}  # by node: weak references
        self.rows: weakref.WeakValueDictionary[int, Recomputed] = weakref.WeakValueDictionary()

    def note_index(self, num_nodes: int, index: Reference) -> None:
        """Note integers kept by reference, saved by the last of so many nodes; one each."""
        number = num_nodes - 1
        self._indices[number] = _nothing if number in self._indices else weakref.ref(index)

    def index_of(self, node: Any) -> Reference | None:
        """Return the integers that a node saved, kept by reference."""
        return self._indices.get(node._sequence_nr(), _nothing)()

    def is_unchanged(self, table: Tensor) -> bool:
        """Whether a table is one of the block's, and as it was when the block began."""
        return self._versions.get(id(table)) == table._version

    def table(self, parameter: Tensor) -> Reference:
        """Return a reference to a parameter, one for the whole block."""
        reference = self._references.get(id(parameter))
        if reference is None:
            reference = Reference(parameter.detach(), self._outer)
            self._references[id(parameter)] = reference
        return reference

    def view(self, parameter: Tensor, geometry: tuple[Any, ...]) -> Reference:
        """Return a reference to a view of a parameter."""
        return Reference(parameter.detach().as_strided(*geometry), self._outer)


class _Table(NamedTuple):
    """A parameter, or a view of it."""

    parameter: Callable[[], Any]  # a weak reference
    views: tuple[tuple[type, tuple[Any, ...]], ...]  # the nodes from the view to the parameter
    geometry: tuple[Any, ...]

    @property
    def is_of_any_shape(self) -> bool:
        """Whether it does not depend on the batch."""
        return not self.views

    def match(self, node: Any, sources: Sources) -> Reference | None:
        """Return a reference to it, if a node of the graph shows it."""
        for kind, numbers in self.views:
            if not _is_node(node, kind, numbers):
                return None
            node = node.next_functions[0][0]
        parameter: Any = getattr(node, "variable", _nothing)
        if parameter is not self.parameter() or not sources.is_unchanged(parameter):
            return None
        return sources.view(parameter, self.geometry) if self.views else sources.table(parameter)


class _Slot(NamedTuple):
    """The place of a tensor in the arguments of an operation."""

    number: int


class _Rows(NamedTuple):
    """An operation that gathers rows of a table, or combines rows."""

    func: OpOverload
    args: tuple[Any, ...]  # with slots
    kwargs: Any
    kind: type  # of the node
    numbers: tuple[Any, ...]  # that the node has besides
    parts: tuple[_Table | _Rows, ...]  # of a gather: the table
    has_index: bool

    @property
    def is_of_any_shape(self) -> bool:
        """Whether it does not depend on the batch."""
        return all(part.is_of_any_shape for part in self.parts)

    def match(self, node: Any, sources: Sources) -> Recomputed | None:
        """Return the rows as they will be recomputed, if a node of the graph shows them."""
        if not _is_node(node, self.kind, self.numbers):
            return None
        number = node._sequence_nr()
        rows = sources.rows.get(number)
        if rows is None:
            packed = self._parts_of(node, sources)
            if any(part is None for part in packed):
                return None
            args = [
                map_leaves(lambda a: packed[a.number] if isinstance(a, _Slot) else a, arg)
                for arg in self.args
            ]
            sources.rows[number] = rows = Recomputed(self.func, args, self.kwargs)
        return rows

    def _parts_of(self, node: Any, sources: Sources) -> list[Any]:
        nodes = _argument_nodes(node)
        if len(nodes) < len(self.parts):
            return [None]
        packed: list[Any] = []
        for part, its_node in zip(self.parts, nodes, strict=False):
            found = part.match(its_node, sources)
            packed.append(RecomputedView(found) if isinstance(found, Recomputed) else found)
        return [*packed, sources.index_of(node)] if self.has_index else packed


class Derivation:
    """How the rows of one save were computed, and what its tensor is like.

    Args:
        rows: The expression.
        tensor: The rows themselves, not a view of them.
    """

    def __init__(self, rows: _Rows, tensor: Tensor) -> None:
        self._rows, self._dtype, self._version = rows, tensor.dtype, tensor._version
        self.key = None if rows.is_of_any_shape else tensor.shape
        """The shape that it is for; None: any."""

    def match(self, tensor: Tensor, sources: Sources) -> Recomputed | None:
        """Return the rows that a tensor is or is a view of, if its graph shows them."""
        base = tensor if tensor._base is None else tensor._base
        node: Any = base.grad_fn
        if base._version != self._version or base.dtype != self._dtype:
            return None
        if node is None or not base.is_contiguous():
            return None
        if self._rows.has_index and not _has_shape_of_rows(base, node, sources):
            return None
        return self._rows.match(node, sources)


def derive(tensor: Tensor, origin: Origin, sources: Sources) -> Derivation | None:
    """Return the derivation of rows whose origin the dispatch mode has seen.

    Args:
        tensor: The rows as autograd saves them, with their graph.
        origin: How they were computed.
        sources: Of the block.

    Returns:
        None if the graph does not determine it.
    """
    base = tensor if tensor._base is None else tensor._base
    if base.grad_fn is None or origin.is_stale:
        return None
    if base_name(origin.func) not in _WHOLE_ONLY:
        rows = _derive_rows(origin, base.grad_fn, sources)
    else:
        rows = _derive_gather(origin, base.grad_fn, sources)
    derivation = None if rows is None else Derivation(rows, base)
    # What does not match itself, such as a table written to in the block, would never match.
    return derivation if derivation and derivation.match(tensor, sources) else None


def _derive_rows(origin: Origin, node: Any, sources: Sources) -> _Rows | None:
    name = base_name(origin.func)
    if name in _WHOLE_ONLY:
        return None
    if name in ("embedding", "index_select"):
        return _derive_gather(origin, node, sources)
    tensors = [leaf for leaf in leaves_of(origin.args) if isinstance(leaf, Tensor | View)]
    nodes = _argument_nodes(node)
    scalars = [arg for arg in origin.args[:2] if not isinstance(arg, Tensor | View | list)]
    if not _is_node_of(name, node) or len(nodes) != len(tensors):
        return None
    if scalars and name not in ("cat", "stack"):
        return None  # a number that is added is not in the graph
    parts = [_derive_part(t, n, sources) for t, n in zip(tensors, nodes, strict=True)]
    return None if None in parts else _rows(origin, node, parts, has_index=False)


def _derive_part(leaf: Tensor | View, node: Any, sources: Sources) -> _Table | _Rows | None:
    if isinstance(leaf, View):
        return _derive_rows(leaf.origin, node, sources)
    return _derive_table(leaf, node, sources)


def _derive_gather(origin: Origin, node: Any, sources: Sources) -> _Rows | None:
    """Derive one gather: of a whole parameter, by integers that its node saved."""
    name, nodes = base_name(origin.func), _argument_nodes(node)
    is_lookup = name == "embedding" and table_of_lookup(node) is not None
    if not (is_lookup or _is_node_of(name, node)) or not nodes:
        return None
    tensors = [leaf for leaf in leaves_of(origin.args) if isinstance(leaf, Tensor)]
    table = _derive_table(tensors[0], nodes[0], sources)
    if table is None or table.views:
        return None
    if name == "_to_copy":
        return _rows(origin, node, [table], has_index=False)
    if name == "index" and not (len(origin.args[1]) == 1 and _is_oblong(tensors[0])):
        return None
    index = sources.index_of(node)
    if len(tensors) != 2 or index is None or index.storage != storage_id(tensors[1]):
        return None
    return _rows(origin, node, [table], has_index=True)


def _derive_table(tensor: Tensor, node: Any, sources: Sources) -> _Table | None:
    """Derive a parameter, or a view of it by operations whose numbers the graph has."""
    views = []
    while type(node).__name__ in _VIEWS:
        views.append((type(node), _numbers(node)))
        node = node.next_functions[0][0]
    parameter = getattr(node, "variable", None)
    if parameter is None or storage_id(parameter) != storage_id(tensor):
        return None
    geometry = tensor.shape, tensor.stride(), tensor.storage_offset()
    whole = parameter.shape, parameter.stride(), parameter.storage_offset()
    if not views and geometry != whole:
        return None
    return _Table(weakref.ref(parameter), tuple(views), geometry)


def _rows(origin: Origin, node: Any, parts: list[Any], *, has_index: bool) -> _Rows:
    slots = map(_Slot, itertools.count())
    args = tuple(
        map_leaves(lambda a: next(slots) if isinstance(a, Tensor | View) else a, arg)
        for arg in origin.args
    )
    return _Rows(
        origin.func, args, origin.kwargs, type(node), _numbers(node), tuple(parts), has_index
    )


def _is_node_of(name: str, node: Any) -> bool:
    """Whether a node is that of an operation, so that both have the same arguments."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    return type(node).__name__ == f"{camel}Backward0" and type(node).__name__ in _NUMBERS


def _is_node(node: Any, kind: type, numbers: tuple[Any, ...]) -> bool:
    return type(node) is kind and _numbers(node) == numbers


def _numbers(node: Any) -> tuple[Any, ...]:
    names = _NUMBERS.get(type(node).__name__, ())
    return tuple([getattr(node, name) for name in names]) if names else ()


def _argument_nodes(node: Any) -> list[Any]:
    """Return the nodes of a node's tensors; of a shared lookup, that of its table."""
    nodes = [following for following, _ in node.next_functions]
    return [nodes[0].next_functions[0][0]] if table_of_lookup(node) is not None else nodes


def _is_oblong(table: Tensor) -> bool:
    """Whether the shape of gathered rows tells them from gathered columns."""
    return table.dim() == 2 and table.shape[0] != table.shape[1]


def _has_shape_of_rows(rows: Tensor, node: Any, sources: Sources) -> bool:
    index = sources.index_of(node)
    return index is not None and tuple(rows.shape[:-1]) == index.shape
