r"""The best paths between a recommended item and a user's history, where nodes read each other.

In KGAT and KGCN a node's vector is a weighted sum of its neighbours' vectors; let :math:`w(a, b)`
be the weight by which a reads b. A path connects a known item h and a recommended item i if what
one node holds is read, step by step, by both of them: it goes from h along reads to a meeting node,
and from there against reads to i. With at most two steps, these are

    h reads i:  w(h, i)              h reads e, e reads i:  w(h, e) w(e, i)
    i reads h:  w(i, h)              i reads e, e reads h:  w(i, e) w(e, h)
    h and i both read e:  w(h, e) w(i, e)

and each is multiplied by the weight of h for the user (KGAT: how the user reads h; KGCN: 1). Such a
product is the share that the meeting node's vector has in both ends: the coefficient of its inner
product with itself in the product of the two vectors, nonlinearities and weight matrices left out.
Where reads ignore the direction of triples, as KGCN's do, one path can be read in several of these
ways; it has the highest of their products.

The search is exact. All paths over a meeting node e share the item's half, so that of the history's
halves that end in e only the best N can be among the best N paths: they are cut down to these
before they are joined with the item's. No loop runs over edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recbole_tinykg.serving.paths.knowledge import AGAINST, ALONG, ANY, EITHER, FoundPaths, slices


class Reads(NamedTuple):
    """Reads that some nodes take part in: (M,) each."""

    place: np.ndarray  # of the node among those asked for
    entity: np.ndarray  # at the other end
    relation: np.ndarray  # between them, or ANY
    weight: np.ndarray  # float64

    def kept(self, which: np.ndarray) -> Reads:
        """Return the reads at the given places, or where a mask is true."""
        return Reads(*(column[which] for column in self))


@dataclass(frozen=True)
class UserAttention:
    """One user's attention, as the search needs it.

    Attributes:
        history: (H,) items that the user knows.
        start: (H,) weight of each.
        num_hops: How many reads follow each other in the model; longer paths are left out.
        has_direction: Whether a read goes along its triple; if not, the triple is looked up.
        read_by: From entities (M,) to what each of them reads.
        readers_of: From entities (M,) to what reads each of them.
    """

    history: np.ndarray
    start: np.ndarray
    num_hops: int
    has_direction: bool
    read_by: Callable[[np.ndarray], Reads]
    readers_of: Callable[[np.ndarray], Reads]


def best_paths(attention: UserAttention, items: np.ndarray, num_paths: int) -> FoundPaths:
    """Return the paths of highest score to each of some items.

    Args:
        attention: Of one user.
        items: (I,) recommended items.
        num_paths: N, at most, for each item.
    """
    overlap = np.isin(items, attention.history).any()  # an item then must not meet itself
    limit = np.iinfo(np.int64).max if overlap else num_paths
    along, against = (ALONG, AGAINST) if attention.has_direction else (EITHER, EITHER)
    history, start, ones = attention.history, attention.start, np.ones(len(items))
    known_read = _half(attention.read_by(history), history, start, along)
    known_readers = _half(attention.readers_of(history), history, start, against)
    read = _half(attention.read_by(items), items, ones, against)
    readers = _half(attention.readers_of(items), items, ones, along)
    own = np.full(len(history), ANY)
    here = _Half(Reads(np.arange(len(own)), history, own, start), None)
    pairs = [(here, read), (here, readers), (known_read, read)]
    if attention.num_hops > 1:
        pairs += [(known_read, readers), (known_readers, read)]
    parts = [_join(first, last, history, items, limit) for first, last in pairs]
    return FoundPaths.joined(parts).best(num_paths)


class _Half(NamedTuple):
    """Reads at one end of a path, and the direction in which the path takes them."""

    reads: Reads
    direction: int | None  # None: no step


def _half(reads: Reads, nodes: np.ndarray, start: np.ndarray, direction: int) -> _Half:
    """Return the reads of nodes, times each node's weight; no node reads itself here."""
    weighted = reads._replace(weight=reads.weight * start[reads.place])
    return _Half(weighted.kept(nodes[reads.place] != reads.entity), direction)


def _join(
    first: _Half, last: _Half, history: np.ndarray, items: np.ndarray, limit: int
) -> FoundPaths:
    """Join two halves at the entities where they meet, the best `limit` first ones of each."""
    begin, end = first.reads, last.reads
    begin = begin.kept(np.lexsort([begin.relation, begin.place, -begin.weight, begin.entity]))
    rank = np.arange(len(begin.entity)) - np.searchsorted(begin.entity, begin.entity)
    begin = begin.kept(rank < limit)
    which, found = slices(begin.entity, end.entity)
    begin, end = begin.kept(found), end.kept(which)
    known, item = history[begin.place], items[end.place]
    apart = known != item
    score = (begin.weight * end.weight)[apart]
    steps = [(end.relation, last.direction)]
    nodes = [known, item]
    if first.direction is not None:
        steps.insert(0, (begin.relation, first.direction))
        nodes.insert(1, end.entity)
    relations = np.stack([relation for relation, _ in steps], axis=1)[apart]
    directions = np.broadcast_to([way for _, way in steps], relations.shape)
    return FoundPaths(
        end.place[apart], score, np.stack(nodes, axis=1)[apart], relations, directions
    )
