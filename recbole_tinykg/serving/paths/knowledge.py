"""Paths through the knowledge graph: as numbers while they are searched, as names when shown.

A path leads from an item that the user knows to the recommended one. Each of its steps is a triple,
walked along (`head –relation→ tail`) or against (`tail ←relation– head`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

ALONG, AGAINST, EITHER = 1, -1, 0
ANY = -1
"""As a relation: any relation of the pair. As a node: no node, since the path is shorter."""


@dataclass(frozen=True)
class Step:
    """A step of a path.

    Attributes:
        relations: Names of the relations from head to tail; several where the model weighs pairs.
        forward: Whether it leads from head to tail.
    """

    relations: tuple[str, ...]
    forward: bool

    def __str__(self) -> str:
        """As `–relation→` or `←relation–`."""
        name = "|".join(self.relations)
        return f"–{name}→" if self.forward else f"←{name}–"


@dataclass(frozen=True)
class GraphPath:
    """A path from an item that the user knows to a recommended one.

    Attributes:
        score: The model's attention to it.
        nodes: Tokens of the known item, entities, and the recommended item; items by item token.
        steps: One fewer than nodes.
        labels: What is shown for the nodes: the tokens, and an item's `item_field` with it.
    """

    score: float
    nodes: tuple[str, ...]
    steps: tuple[Step, ...]
    labels: tuple[str, ...]

    def __str__(self) -> str:
        """As `item –relation→ entity ←relation– item`."""
        tail = zip(self.steps, self.labels[1:], strict=True)
        return " ".join([self.labels[0], *(f"{step} {node}" for step, node in tail)])


class FoundPaths(NamedTuple):
    """P paths of at most S steps, as numbers."""

    item: np.ndarray  # (P,) place of the recommended item
    score: np.ndarray  # (P,) float64
    nodes: np.ndarray  # (P, S + 1) entities, from the known item on; ANY behind the end
    relations: np.ndarray  # (P, S), or ANY
    directions: np.ndarray  # (P, S) ALONG, AGAINST, or EITHER: to be looked up

    @classmethod
    def joined(cls, parts: list[FoundPaths]) -> FoundPaths:
        """Return all paths of several searches, which may differ in the number of steps."""
        most = max(part.relations.shape[1] for part in parts)
        widened = [part._widened(most) for part in parts]
        return cls(*(np.concatenate(columns) for columns in zip(*widened, strict=True)))

    def _widened(self, num_steps: int) -> FoundPaths:
        missing = ((0, 0), (0, num_steps - self.relations.shape[1]))
        wide = (np.pad(column, missing, constant_values=ANY) for column in self[2:])
        return FoundPaths(self.item, self.score, *wide)

    def best(self, num_paths: int) -> FoundPaths:
        """Return the paths of highest score of each item, best first; equal scores by nodes.

        A path that was found several times, since it can be read in several ways, comes once.
        """
        keys = np.column_stack([self.item, self.nodes, self.relations, self.directions])
        order = np.lexsort([*keys.T[:0:-1], -self.score, self.item])
        _, first = np.unique(keys[order], axis=0, return_index=True)
        order = order[np.sort(first)]
        rank = np.arange(len(order)) - np.searchsorted(self.item[order], self.item[order])
        return FoundPaths(*(column[order[rank < num_paths]] for column in self))


class KnowledgeGraph:
    """The triples of a RecBole `KnowledgeBasedDataset`, sorted, with the names of everything."""

    def __init__(self, dataset: Any) -> None:
        self._num_entities, self._num_relations = dataset.entity_num, dataset.relation_num
        head, tail, relation = (
            np.asarray(column).astype(np.int64)
            for column in (dataset.head_entities, dataset.tail_entities, dataset.relations)
        )
        self._codes = np.unique(self._code(head, tail, relation))
        self._num_items = dataset.item_num
        self._items = dataset.field2id_token[dataset.iid_field]
        self._entities = dataset.field2id_token[dataset.entity_field]
        self._relations = dataset.field2id_token[dataset.relation_field]
        pairs = np.unique(self._codes // self._num_relations)
        self._heads, self._tails = pairs // self._num_entities, pairs % self._num_entities
        self._by_tail = np.argsort(self._tails, kind="stable")

    def _code(self, head: Any, tail: Any, relation: Any) -> Any:
        return (head * self._num_entities + tail) * self._num_relations + relation

    def linked(self, entities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the neighbours of entities (M,): place (L,) of the entity, neighbour, direction.

        ALONG if a triple leads from the neighbour to the entity, else AGAINST; once per pair.
        """
        place, found = slices(self._tails[self._by_tail], entities)
        along = place, self._heads[self._by_tail[found]]
        place, found = slices(self._heads, entities)
        code = place * self._num_entities + self._tails[found]
        only = ~np.isin(code, along[0] * self._num_entities + along[1])
        direction = np.repeat([ALONG, AGAINST], [len(along[0]), only.sum()])
        other = self._tails[found][only]
        return np.append(along[0], place[only]), np.append(along[1], other), direction

    def named(
        self, found: FoundPaths, num_items: int, item_fields: Mapping[str, str]
    ) -> list[tuple[GraphPath, ...]]:
        """Return the paths by the item that they recommend, out of `num_items`.

        Args:
            found: The paths.
            num_items: Items that they were searched for.
            item_fields: What to show with item tokens.
        """
        by_item: list[list[GraphPath]] = [[] for _ in range(num_items)]
        for item, score, nodes, relations, directions in zip(*found, strict=True):
            nodes = nodes[nodes != ANY]
            ends = zip(nodes[:-1], nodes[1:], relations, directions, strict=False)
            steps = tuple(self._step(*end) for end in ends)
            names = tuple(map(self._name, nodes))
            labels = tuple(self._label(node, item_fields) for node in nodes)
            by_item[item].append(GraphPath(float(score), names, steps, labels))
        return [tuple(paths) for paths in by_item]

    def _name(self, entity: int) -> str:
        return str((self._items if entity < self._num_items else self._entities)[entity])

    def _label(self, entity: int, item_fields: Mapping[str, str]) -> str:
        name = self._name(entity)
        field = item_fields.get(name) if entity < self._num_items else None
        return f"{name} ({field})" if field else name

    def _step(self, start: int, end: int, relation: int, direction: int) -> Step:
        if direction == EITHER:
            code = self._code(int(start), int(end), int(relation))
            place = np.searchsorted(self._codes, code)
            is_along = place < len(self._codes) and self._codes[place] == code
            direction = ALONG if is_along else AGAINST
        head, tail = (start, end) if direction == ALONG else (end, start)
        relations: Sequence[int] | np.ndarray = [relation]
        if relation == ANY:  # every relation between the two
            first = self._code(int(head), int(tail), 0)
            ends = np.searchsorted(self._codes, [first, first + self._num_relations])
            relations = self._codes[slice(*ends)] - first
        names = tuple(str(self._relations[relation]) for relation in relations)
        return Step(names, bool(direction == ALONG))


def slices(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find every place in sorted `keys` that holds a wanted key.

    Args:
        keys: (M,) sorted.
        wanted: (W,) in any order.

    Returns:
        (L,) place of the key in `wanted`, and (L,) place in `keys`.
    """
    start = np.searchsorted(keys, wanted)
    count = np.searchsorted(keys, wanted, side="right") - start
    place = np.repeat(np.arange(len(wanted)), count)
    skipped = start - np.append(0, np.cumsum(count)[:-1])[: len(count)]
    return place, skipped[place] + np.arange(len(place))
