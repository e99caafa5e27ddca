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

from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from recbole_tinykg.serving.paths.knowledge import ANY, FoundPaths, slices
from recbole_tinykg.serving.paths.search import Reads, best_paths


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
        return best_paths(_OfGraph(self._reads, self._readers, history, start), items, num_paths)


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


class _OfGraph:
    """KGAT's attention for one user: the same for all but the history."""

    num_hops = 2
    has_direction = True

    def __init__(
        self, reads: csr_array, readers: csr_array, history: np.ndarray, start: np.ndarray
    ) -> None:
        self._reads, self._readers = reads, readers
        self.history, self.start = history, start

    def read_by(self, entities: np.ndarray) -> Reads:
        return _rows(self._reads, entities)

    def readers_of(self, entities: np.ndarray) -> Reads:
        return _rows(self._readers, entities)


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
        return best_paths(_OfNeighbors(self, scores, history), items, num_paths)

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


class _OfNeighbors:
    """KGCN's attention for one user, to whom all known items are equal."""

    has_direction = False

    def __init__(self, table: NeighborAttention, scores: np.ndarray, history: np.ndarray) -> None:
        self._table, self._scores = table, scores
        self.history, self.start = history, np.ones(len(history))
        self.num_hops = table._num_hops

    def read_by(self, entities: np.ndarray) -> Reads:
        return self._table.read_by(entities, self._scores)

    def readers_of(self, entities: np.ndarray) -> Reads:
        return self._table.readers_of(entities, self._scores)


def _summed(reads: Reads) -> Reads:
    """Merge equal reads into one with the sum of their weights."""
    keys = np.stack(reads[:3], axis=1)
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    weight = np.bincount(which.reshape(-1), reads.weight, minlength=len(distinct))
    place, entity, relation = distinct.T
    return Reads(place, entity, relation, weight)
