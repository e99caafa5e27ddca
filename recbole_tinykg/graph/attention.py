r"""The collaborative knowledge graph of KGAT and its attention, as CSR, without DGL.

Nodes are users, then entities (items are the first entities). Edges are the interactions, in both
directions under a relation of their own, and the triples of the knowledge graph. The numbers are
RecBole's:

* the first attention matrix is :math:`\sum_r D_r^{-1} A_r`, each relation's adjacency normalised by
  row;
* `refresh` gives edge (h, r, t) the score :math:`(W_r e_t)^\top \tanh(W_r e_h + e_r)` (KGAT,
  equation 4), adds the scores of parallel edges, and takes the softmax over each head's edges
  (equation 5).

RecBole gathers and projects both ends of every edge; here each relation projects its nodes once
(155,000 user-item edges of ml-100k have 2,500 nodes), and edges gather projections block by block.
Besides the matrix (`adjacency`) an edge costs 4 bytes: its pair's slot there, which leads to head
and tail. Everything is built from one array of keys (pair, relation), sorted in place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.graph.adjacency import Adjacency, slot_keys
from recbole_tinykg.graph.node_rows import NodeRows
from recbole_tinykg.graph.triples import Triples

EDGE_BLOCK = 8192
"""Edges that a refresh on a CPU scores at a time: three temporaries of 8192 x 64 floats."""

DEVICE_EDGE_BLOCK = 8 * EDGE_BLOCK
"""The same on a GPU, which a block has to keep busy."""


class _Relation(NamedTuple):
    """Where a relation's nodes and edges lie in the graph's buffers."""

    relation: int
    nodes: slice
    num_users: int
    edges: slice


class AttentionGraph(nn.Module):
    """The graph's attention matrix, and what a refresh needs to know of the edges.

    Args:
        edges: Triples over users and entities; those of relation 0, padding, are left out.
        sizes: Numbers of users and of entities.

    Raises:
        ConfigurationError: There are so many nodes and relations that a key does not fit 64 bits.
    """

    node: Tensor  # int32 nodes of each relation, one relation after the other
    edge_slot: Tensor  # (E,) int32 slot of each edge's pair in the adjacency, by relation

    def __init__(self, edges: Triples, sizes: tuple[int, int]) -> None:
        super().__init__()
        pairs, slot, relation = _distinct_pairs(edges, sizes)
        self.adjacency = Adjacency(pairs, sizes)
        del pairs
        order = torch.from_numpy(np.argsort(relation.numpy(), kind="stable"))
        self.register_buffer("edge_slot", slot[order], persistent=False)
        del slot, order
        counts = torch.bincount(relation)
        self.relations = self._register_nodes(counts)
        self.adjacency.set_values(self._mean_within_relations())

    def _register_nodes(self, num_edges: Tensor) -> list[_Relation]:
        """List each relation's nodes, from its number of edges."""
        rows, num_users = self.adjacency.rows(), self.adjacency.sizes[0]
        relations, nodes = [], [torch.zeros(0, dtype=torch.int32)]
        node_start = edge_start = 0
        for relation, count in enumerate(num_edges.tolist()):
            if not count:
                continue
            edges = slice(edge_start, edge_start + count)
            ends = torch.cat(self._ends(self.edge_slot[edges].long(), rows)).int()
            ends.numpy().sort()
            own = ends.unique_consecutive()
            node_range = slice(node_start, node_start + len(own))
            relations.append(_Relation(relation, node_range, int((own < num_users).sum()), edges))
            nodes.append(own)
            node_start, edge_start = node_range.stop, edges.stop
        self.register_buffer("node", torch.cat(nodes), persistent=False)
        return relations

    def _ends(self, slot: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return heads and tails (K,) int64 of slots (K,) int64; `rows` (P,) are of all slots."""
        return rows.index_select(0, slot).long(), self.adjacency.columns(slot)

    def _mean_within_relations(self) -> Tensor:
        """Return the values (P,) float64 of the first attention matrix, in slot order."""
        rows = self.adjacency.rows()
        values = torch.zeros(len(rows), dtype=torch.float64)
        place = torch.empty(self.adjacency.num_nodes, dtype=torch.int64)
        for item in self.relations:
            nodes = self.node[item.nodes].long()
            place[nodes] = torch.arange(len(nodes))
            slot = self.edge_slot[item.edges].long()
            head = place[rows.index_select(0, slot).long()]
            degrees = torch.bincount(head, minlength=len(nodes)).double()
            values.scatter_add_(0, slot, degrees.reciprocal_()[head])
        return values

    @torch.no_grad()
    def refresh(
        self,
        parts: tuple[Tensor, Tensor],  # (n_users, D), (n_entities, D)
        relations: Tensor,  # (n_relations, D')
        projections: Tensor,  # (n_relations, D * D')
    ) -> None:
        """Compute the attention matrix from the embeddings (KGAT, equations 4 and 5)."""
        scores = torch.zeros_like(self.adjacency.values)
        rows = self.adjacency.rows()
        step = EDGE_BLOCK if rows.device.type == "cpu" else DEVICE_EDGE_BLOCK
        place = torch.empty(self.adjacency.num_nodes, dtype=torch.int64, device=rows.device)
        for item in self.relations:
            nodes = self.node[item.nodes].long()
            place[nodes] = torch.arange(len(nodes), device=rows.device)
            own = NodeRows(nodes, item.num_users, self.adjacency.sizes[0])
            matrix = projections[item.relation].view(-1, relations.shape[1])
            projected = own.gather(parts) @ matrix
            query = (projected + relations[item.relation]).tanh_()
            for start in range(item.edges.start, item.edges.stop, step):
                block = slice(start, min(start + step, item.edges.stop))
                slot = self.edge_slot[block].long()
                head, tail = (place.index_select(0, end) for end in self._ends(slot, rows))
                key = projected.index_select(0, tail).mul_(query.index_select(0, head))
                scores.scatter_add_(0, slot, key.sum(1).to(scores.dtype))
        self.adjacency.set_values(segment_softmax_(scores, self.adjacency))

    def state(self) -> dict[str, Tensor]:
        """Return the attention matrix as plain CSR arrays `crow`, `col` and `values`."""
        crow, col, values = self.adjacency.to_csr()
        return {"crow": crow.int(), "col": col.int(), "values": values}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the matrix from `state`; ValueError if it belongs to another graph."""
        self.adjacency.load_csr(state["crow"], state["col"], state["values"])


def segment_softmax_(scores: Tensor, adjacency: Adjacency) -> Tensor:
    """Take the softmax of scores (P,), in slot order, over the entries of each row; in place."""
    for block in adjacency.row_blocks:
        for_parts = [scores[slots] for slots in block.entries]
        own = torch.cat(for_parts)
        counts = torch.cat([pointers.diff() for pointers in adjacency.pointers(block)])
        numbers = torch.arange(len(counts) // 2, device=scores.device)
        row = torch.repeat_interleave(numbers.repeat(2), counts, output_size=len(own))
        peak = own.new_full(numbers.shape, -torch.inf).scatter_reduce_(0, row, own, "amax")
        own.sub_(peak.index_select(0, row)).exp_()
        total = torch.zeros_like(peak).scatter_add_(0, row, own)
        own.div_(total.index_select(0, row))
        for part, new in zip(for_parts, own.split([len(p) for p in for_parts]), strict=True):
            part.copy_(new)
    return scores


def _distinct_pairs(edges: Triples, sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys (P,) of the distinct pairs; slot and relation (E,) of the edges, by slot."""
    present = edges.relation > 0
    if not present.all():
        edges = Triples(*(column[present] for column in edges))
    num_relations = int(edges.relation.max()) + 1 if len(edges.relation) else 1
    if 2 * sum(sizes) ** 2 * num_relations >= 2**63:
        raise ConfigurationError(
            f"the data set must have so few nodes and relations that 2 nodes^2 relations < 2^63; "
            f"got {sum(sizes)} users and entities and {num_relations} relations"
        )
    keys = slot_keys(edges.head, edges.tail, sizes).mul_(num_relations).add_(edges.relation.long())
    keys.numpy().sort()
    pair = keys // num_relations
    # NumPy sorts 16 bits in linear time.
    smallest = torch.int16 if num_relations <= 2**15 else torch.int32
    relation = keys.sub_(pair * num_relations).to(smallest)
    is_new = torch.ones(len(pair), dtype=torch.bool)
    torch.ne(pair[1:], pair[:-1], out=is_new[1:])
    slot = is_new.cumsum(0, dtype=torch.int32).sub_(1)
    return pair[is_new], slot, relation
