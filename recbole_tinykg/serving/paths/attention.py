r"""Which node reads which in KGAT, KGCN and KGNN-LS, in twins and in RecBole's own.

**KGAT** (Wang et al., KDD 2019, equations 4 and 5): the attention matrix of the checkpoint, a
softmax over all neighbours of a head, users' items among them. :math:`w(a, b) = A_{ab}` and the
weight of a known item is :math:`A_{uh}`. A weighs pairs: parallel relations share one value. Paths
have two steps beyond the user whatever the number of layers is; a model with fewer layers computes
the values but does not pass vectors that far.

**KGCN** (Wang et al., WWW 2019, equations 1 to 3) and **KGNN-LS** (KDD 2019, the same): of the K
sampled neighbours of e, :math:`w(e, k) = \mathrm{softmax}_k(u^\top r_{e,k} / d)`, for the user's
vector u and the relation's r, without RecBole's extra 1/K. A neighbour that was sampled several
times by a relation has the sum of its weights. Up to `n_iter` reads follow each other, here at
most two. Samples ignore the direction of triples, so the direction of each step is looked up.

Values are float64, computed from the checkpoint's weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from recbole_tinykg.serving.paths.knowledge import ANY, FoundPaths, slices
from recbole_tinykg.serving.paths.search import Reads, UserAttention, best_paths


class GraphAttention:
    """KGAT's attention matrix in two parts: users' reads of items, entities' reads of entities."""

    def __init__(self, model: Any) -> None:
        """Read the matrix of TinyKGAT or of KGAT."""
        matrix, num_users = _attention_matrix(model), model.n_users
        self._users = matrix[:num_users, num_users:]
        self._reads = matrix[num_users:, num_users:]
        self._readers = self._reads.T.tocsr()

    def find(self, user: int, history: np.ndarray, items: np.ndarray, num_paths: int) -> FoundPaths:
        """Return the paths of highest score from a user's known items (H,) to items (I,)."""
        own = self._users[[user]]
        place, found = slices(own.indices, history)
        start = np.zeros(len(history))
        start[place] = own.data[found]
        attention = UserAttention(
            history,
            start,
            num_hops=2,
            has_direction=True,
            read_by=partial(_rows, self._reads),
            readers_of=partial(_rows, self._readers),
        )
        return best_paths(attention, items, num_paths)


def _attention_matrix(model: Any) -> csr_array:
    """Return A (N, N) over users, then entities, in float64, with sorted columns."""
    if hasattr(model, "attention"):
        row_start, column, value = (part.detach().cpu().numpy() for part in model.attention)
        num_nodes = len(row_start) - 1
        matrix = csr_array((value.astype(np.float64), column, row_start), (num_nodes,) * 2)
    else:
        sparse = model.A_in.detach().cpu().coalesce()
        values = sparse.values().double().numpy()
        matrix = coo_array((values, tuple(sparse.indices().numpy())), sparse.shape).tocsr()
    matrix.sort_indices()
    return matrix


def _rows(matrix: csr_array, rows: np.ndarray) -> Reads:
    chosen = matrix[rows]
    place = np.repeat(np.arange(len(rows)), np.diff(chosen.indptr))
    return Reads(place, chosen.indices.astype(np.int64), np.full(len(place), ANY), chosen.data)


class NeighborAttention:
    """KGCN's sampled neighbours, and how much a user cares for their relations."""

    def __init__(self, model: Any) -> None:
        """Read the tables of TinyKGCN, TinyKGNNLS, KGCN or KGNNLS."""
        self._neighbors, self._relations = (
            table.detach().cpu().numpy().astype(np.int64)
            for table in (model.adj_entity, model.adj_relation)
        )
        flat = self._neighbors.reshape(-1)
        self._slots = np.argsort(flat, kind="stable")  # of all neighbours, by neighbour
        self._slot_neighbors = flat[self._slots]
        self._user_vectors = model.user_embedding.weight.detach().cpu()
        self._relation_vectors = model.relation_embedding.weight.detach().cpu().double().numpy()
        self._num_hops = model.n_iter

    def find(self, user: int, history: np.ndarray, items: np.ndarray, num_paths: int) -> FoundPaths:
        """Return the paths of highest score from a user's known items (H,) to items (I,)."""
        vector = self._user_vectors[user].double().numpy()
        scores = self._relation_vectors @ vector / len(vector)  # (R,)
        attention = UserAttention(
            history,
            start=np.ones(len(history)),  # all known items are equal
            num_hops=self._num_hops,
            has_direction=False,
            read_by=partial(self.read_by, scores=scores),
            readers_of=partial(self.readers_of, scores=scores),
        )
        return best_paths(attention, items, num_paths)

    def read_by(self, entities: np.ndarray, scores: np.ndarray) -> Reads:
        """Return what entities (M,) read, for a user's scores (R,) of relations."""
        place = np.arange(len(entities)).repeat(self._neighbors.shape[1])
        weight = self._weights(entities, scores).reshape(-1)
        neighbor, relation = (
            table[entities].reshape(-1) for table in (self._neighbors, self._relations)
        )
        return _summed(Reads(place, neighbor, relation, weight))

    def readers_of(self, entities: np.ndarray, scores: np.ndarray) -> Reads:
        """Return what reads entities (M,), for a user's scores (R,) of relations."""
        place, found = slices(self._slot_neighbors, entities)
        reader, column = np.divmod(self._slots[found], self._neighbors.shape[1])
        weight = self._weights(reader, scores)[np.arange(len(reader)), column]
        return _summed(Reads(place, reader, self._relations[reader, column], weight))

    def _weights(self, entities: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Softmax (M, K) over the neighbours of each entity."""
        own = scores[self._relations[entities]]
        own = np.exp(own - own.max(axis=1, keepdims=True))
        return own / own.sum(axis=1, keepdims=True)


def _summed(reads: Reads) -> Reads:
    """Merge equal reads into one with the sum of their weights."""
    keys = np.stack(reads[:3], axis=1)
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    weight = np.bincount(which.reshape(-1), reads.weight, minlength=len(distinct))
    place, entity, relation = distinct.T
    return Reads(place, entity, relation, weight)
