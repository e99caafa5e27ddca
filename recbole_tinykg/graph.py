r"""The collaborative knowledge graph of KGAT and its attention, as CSR, without DGL.

Nodes are users, then entities (items are the first entities). Edges are interactions in both
directions, under one relation of their own, and the triples of the knowledge graph. RecBole's
numbers are kept:

* the first attention matrix is :math:`\sum_r D_r^{-1} A_r`, each relation's adjacency normalised by
  row;
* `refresh` gives edge (h, r, t) the score :math:`(W_r e_t)^\top \tanh(W_r e_h + e_r)` (KGAT,
  equation 4), adds the scores of parallel edges, and takes the softmax over each head's edges
  (equation 5).

Stock gathers and projects both ends of every edge; here each relation projects its nodes once
(155,000 user-item edges of ml-100k have 2,500 nodes), and edges meet projections in blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recbole_tinykg.functional import Adjacency, NodeRows

EDGE_BLOCK = 8192
"""Edges that a refresh scores at a time: three temporaries of 8192 x 64 floats."""


class Edges(NamedTuple):
    """Edges of a graph: (E,) int64 each."""

    head: Tensor
    relation: Tensor
    tail: Tensor


class _Relation(NamedTuple):
    """Where a relation's nodes and edges lie in the graph's buffers."""

    relation: int
    nodes: slice
    num_users: int
    edges: slice


def collaborative_edges(dataset: Any) -> Edges:
    """Edges of a RecBole `KnowledgeBasedDataset` (training split) over users, then entities."""
    graph = dataset.ckg_graph(form="coo", value_field="relation_id")
    head, relation, tail = (torch.as_tensor(a).long() for a in (graph.row, graph.data, graph.col))
    return Edges(head, relation, tail)


class AttentionGraph(nn.Module):
    """The graph's attention matrix and what it takes to refresh it.

    Args:
        edges: edges over users and entities; relation 0 is padding and carries none.
        sizes: numbers of users and of entities.
    """

    node: Tensor  # int32 nodes of each relation, one relation after the other
    edge_head: Tensor  # (E,) int32 place among the relation's nodes, edges sorted by relation
    edge_tail: Tensor  # (E,) int32 likewise
    edge_slot: Tensor  # (E,) int32 slot of the edge's pair in the adjacency

    def __init__(self, edges: Edges, sizes: tuple[int, int]) -> None:
        """Build the CSR arrays and the first attention matrix."""
        super().__init__()
        present = edges.relation > 0
        edges = Edges(*(column[present] for column in edges))
        num_nodes = sum(sizes)
        pairs, pair = torch.unique(edges.head * num_nodes + edges.tail, return_inverse=True)
        values = torch.zeros(len(pairs), dtype=torch.float64)
        values.scatter_add_(0, pair, _inverse_degrees(edges, num_nodes))
        row, col = pairs // num_nodes, pairs % num_nodes
        self.adjacency = Adjacency(row, col, values.float(), sizes)
        rows, cols = self.adjacency.entries()
        slot = torch.argsort(rows * num_nodes + cols)[pair]
        self.relations = self._register_relations(edges, slot, sizes[0])

    def _register_relations(self, edges: Edges, slot: Tensor, num_users: int) -> list[_Relation]:
        """Sort edges by relation and number each relation's nodes."""
        relations, nodes, heads, tails = [], [], [], []
        order = torch.argsort(edges.relation, stable=True)
        values, counts = torch.unique_consecutive(edges.relation[order], return_counts=True)
        node_start = edge_start = 0
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            chosen = order[edge_start : edge_start + count]
            ends = torch.cat([edges.head[chosen], edges.tail[chosen]])
            own, local = torch.unique(ends, return_inverse=True)
            node_range = slice(node_start, node_start + len(own))
            edge_range = slice(edge_start, edge_start + count)
            relations.append(_Relation(value, node_range, int((own < num_users).sum()), edge_range))
            nodes.append(own)
            heads.append(local[:count].int())
            tails.append(local[count:].int())
            node_start, edge_start = node_range.stop, edge_range.stop
        empty = torch.zeros(0, dtype=torch.int32)
        self.register_buffer(
            "node", torch.cat([empty, *(n.int() for n in nodes)]), persistent=False
        )
        self.register_buffer("edge_head", torch.cat([empty, *heads]), persistent=False)
        self.register_buffer("edge_tail", torch.cat([empty, *tails]), persistent=False)
        self.register_buffer("edge_slot", slot[order].int(), persistent=False)
        return relations

    @torch.no_grad()
    def refresh(
        self,
        parts: tuple[Tensor, Tensor],  # (n_users, D), (n_entities, D)
        relations: Tensor,  # (n_relations, D')
        projections: Tensor,  # (n_relations, D * D')
    ) -> None:
        """Compute the attention matrix from the embeddings (KGAT, equations 4 and 5)."""
        scores = torch.zeros_like(self.adjacency.values)
        for item in self.relations:
            rows = NodeRows(self.node[item.nodes].long(), item.num_users, self.adjacency.sizes[0])
            matrix = projections[item.relation].view(-1, relations.shape[1])
            projected = rows.gather(parts) @ matrix
            query = torch.tanh(projected + relations[item.relation])
            for start in range(item.edges.start, item.edges.stop, EDGE_BLOCK):
                block = slice(start, min(start + EDGE_BLOCK, item.edges.stop))
                key = projected.index_select(0, self.edge_tail[block])
                key.mul_(query.index_select(0, self.edge_head[block]))
                scores.scatter_add_(0, self.edge_slot[block].long(), key.sum(1).to(scores.dtype))
        self.adjacency.set_values(segment_softmax(scores, self.adjacency))

    def state(self) -> dict[str, Tensor]:
        """The attention matrix as plain CSR arrays `crow`, `col` and `values`."""
        crow, col, values = self.adjacency.to_csr()
        return {"crow": crow, "col": col, "values": values}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take a matrix from `state`; ValueError if it belongs to another graph."""
        self.adjacency.load_csr(state["crow"], state["col"], state["values"])


def segment_softmax(scores: Tensor, adjacency: Adjacency) -> Tensor:
    """Softmax (E,) of scores (E,), in slot order, over the entries of each row."""
    row = adjacency.message_of_slots()
    peak = scores.new_full((adjacency.num_messages,), -torch.inf)
    peak.scatter_reduce_(0, row, scores, "amax")
    weight = torch.exp(scores - peak[row])
    total = torch.zeros_like(peak).scatter_add_(0, row, weight)
    return weight / total[row]


def _inverse_degrees(edges: Edges, num_nodes: int) -> Tensor:
    """(E,) float64: one over the number of edges that share an edge's relation and head."""
    _, group, count = torch.unique(
        edges.relation * num_nodes + edges.head, return_inverse=True, return_counts=True
    )
    return 1.0 / count[group].double()
