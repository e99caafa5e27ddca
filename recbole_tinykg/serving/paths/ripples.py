r"""Paths of RippleNet (Wang et al., CIKM 2018), twin or RecBole's own: chains of remembered facts.

A user's memory has facts (h, r, t) for every hop; the heads of the first are items that the user
knows. For an item with vector v, the weight of fact m of a hop is (equation 4)

.. math:: p_m = \mathrm{softmax}_m(v^\top R_m h_m),

the share of its tail in the answer o to the item. From hop to hop RecBole changes v to W (v + o),
and so do these values; a fact that was sampled several times has the sum of its weights.

A path is a chain of facts, the j-th from the memory of hop j and starting where the one before
ended, and a triple that links the chain's end to the recommended item; or one fact whose tail is
the item. Its score is the product of its facts' p. The link to the item has no attention in the
model, so its factor is 1.

RecBole's later hops repeat the first by mistake (`repeat_first_hop`), so that a second fact starts
from a known item, too. Chains have at most three facts. Values are float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recbole_tinykg.serving.paths.knowledge import ALONG, ANY, FoundPaths, KnowledgeGraph, slices

_MOST_FACTS = 3


class _Hop(NamedTuple):
    """A hop's distinct facts (F,), and which of them each of its M slots has."""

    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray
    which: np.ndarray  # (M,)


class _Chains(NamedTuple):
    """C chains of L facts."""

    nodes: np.ndarray  # (C, L + 1)
    relations: np.ndarray  # (C, L)
    facts: np.ndarray  # (C, L) places in the hops

    def longer(self, hop: _Hop) -> _Chains:
        """Extend every chain by every fact of a hop that begins where it ends, without cycles."""
        order = np.argsort(hop.head, kind="stable")
        chain, found = slices(hop.head[order], self.nodes[:, -1])
        fact = order[found]
        straight = (self.nodes[chain] != hop.tail[fact, None]).all(axis=1)
        chain, fact = chain[straight], fact[straight]
        return _Chains(
            np.column_stack([self.nodes[chain], hop.tail[fact]]),
            np.column_stack([self.relations[chain], hop.relation[fact]]),
            np.column_stack([self.facts[chain], fact]),
        )


class RippleAttention:
    """RippleNet's memories and weights."""

    def __init__(self, model: Any, graph: KnowledgeGraph) -> None:
        """Keep the model, whose memories are read user by user."""
        self._model, self._graph = model, graph
        self._map = model.transform_matrix.weight.detach().cpu().double().numpy()

    def find(self, user: int, history: np.ndarray, items: np.ndarray, num_paths: int) -> FoundPaths:
        """Return the paths of highest score from a user's memory to items (I,)."""
        hops = [_distinct(*facts) for facts in memory(self._model, user)]
        weights = self._attention(hops, items)
        links = self._graph.linked(items)
        heads = np.unique(hops[0].head)
        chains = _Chains(heads[:, None], *np.empty((2, len(heads), 0), dtype=np.int64))
        found = []
        for num_facts in range(1, min(len(hops), _MOST_FACTS) + 1):
            chains = chains.longer(hops[num_facts - 1])
            score = np.ones((len(items), len(chains.nodes)))
            for weight, fact in zip(weights, chains.facts.T, strict=False):
                score *= weight[:, fact]
            found.append(_linked(chains, score, items, links))
            if num_facts == 1:  # later, the link to the item is the better reading of the last
                found.append(_ending(chains, score, items))
        return FoundPaths.joined(found).best(num_paths)

    def _attention(self, hops: list[_Hop], items: np.ndarray) -> list[np.ndarray]:
        """Return the weights (I, F) of each hop's distinct facts, for items (I,)."""
        entities = self._model.entity_embedding
        v, weights = _rows(entities, items), []
        for hop in hops:
            heads, tails = _rows(entities, hop.head), _rows(entities, hop.tail)
            matrices = _rows(self._model.relation_embedding, hop.relation)
            keys = np.einsum("fij,fj->fi", matrices.reshape(*heads.shape, -1), heads)
            count = np.bincount(hop.which, minlength=len(keys))
            logits = v @ keys.T  # (I, F)
            p = count * np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            weights.append(p)
            v = (v + p @ tails) @ self._map.T
        return weights


def _rows(embedding: Any, rows: np.ndarray) -> np.ndarray:
    return embedding.weight.detach()[rows].cpu().double().numpy()


def memory(model: Any, user: int) -> list[tuple[np.ndarray, ...]]:
    """Return heads, relations and tails (M,) of each hop of a user's memory, in twin or stock."""
    if hasattr(model, "ripple_sets"):
        table = model.ripple_sets.table
        slots = table.memory[user].long()
        columns = (table.head[slots], table.relation[slots], table.tail[slots])
        hops = list(zip(*(column.cpu().numpy() for column in columns), strict=True))
    else:
        hops = [tuple(part.cpu().numpy() for part in hop) for hop in model.ripple_set[user]]
    return [tuple(column.astype(np.int64) for column in hop) for hop in hops]


def _distinct(head: np.ndarray, relation: np.ndarray, tail: np.ndarray) -> _Hop:
    facts, which = np.unique(np.stack([head, relation, tail], axis=1), axis=0, return_inverse=True)
    head, relation, tail = facts.T
    return _Hop(head, relation, tail, which.reshape(-1))


def _ending(chains: _Chains, score: np.ndarray, items: np.ndarray) -> FoundPaths:
    """Return the chains that end in an item."""
    item, chain = np.nonzero(items[:, None] == chains.nodes[:, -1])
    directions = np.full_like(chains.relations[chain], ALONG)
    return FoundPaths(
        item, score[item, chain], chains.nodes[chain], chains.relations[chain], directions
    )


def _linked(
    chains: _Chains,
    score: np.ndarray,
    items: np.ndarray,
    links: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> FoundPaths:
    """Return the chains that end in a neighbour of an item, with the step to it."""
    order = np.argsort(chains.nodes[:, -1], kind="stable")
    link, found = slices(chains.nodes[order, -1], links[1])
    chain, item, direction = order[found], links[0][link], links[2][link]
    straight = (chains.nodes[chain] != items[item, None]).all(axis=1)
    chain, item, direction = chain[straight], item[straight], direction[straight]
    nodes = np.column_stack([chains.nodes[chain], items[item]])
    relations = np.column_stack([chains.relations[chain], np.full(len(chain), ANY)])
    along = np.full_like(chains.relations[chain], ALONG)
    directions = np.column_stack([along, direction])
    return FoundPaths(item, score[item, chain], nodes, relations, directions)
