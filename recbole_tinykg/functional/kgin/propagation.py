r"""KGIN's hops as one autograd function that keeps codes instead of maps.

A hop gives every head of the knowledge graph the mean of its tails times their relations
(`paired_edges`), every user of the batch the mean of the user's items, guided by intents
(`guidance`), drops messages out and scales rows to unit length. A user's row is read by that user
alone, so users have rows for the batch only; the last hop's entities are the batch's items. The
function returns those rows of the sum over hidden hops, the parameters included, and of the last
hop *before* it is scaled: the loss knows that part's gradient in forward (`summed_ranking`).

Saves, besides parameters by reference: one bit per edge if a step leaves edges out. Per hidden hop,
two codes of each unit row (bits/4 B per element) of heads and of the batch's users, and their
lengths. Per hop, codes of the users' item means and the intents' shares (4 F bytes per user).
Dropout is drawn again. The last hop keeps nothing of its entities, the first nothing of its input.

Noise: the gradient that enters a hop carries noise of later hops and of the loss only. In the hop
it meets the unit rows' two codes once each, and the means' code once. The relations' gradient reads
the previous hop's first code, which no gradient that arrives there has met; the gradient that goes
on below meets it after it has left that chain. So every gradient is unbiased.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.kgin.edge_sampling import pack_mask, unpack_mask
from recbole_tinykg.functional.kgin.guidance import (
    IntentGradients,
    directions,
    directions_backward,
    guided_means,
    guided_means_backward,
)
from recbole_tinykg.functional.kgin.step import (
    SAMPLING_SITES,
    SITES_PER_HOP,
    Batch,
    IntentPropagation,
)
from recbole_tinykg.functional.kgin.unit_rows import UnitRows, normalize, take
from recbole_tinykg.functional.rows import add_rows_
from recbole_tinykg.graph.csr import row_places
from recbole_tinykg.graph.paired_edges import RelationGradient
from recbole_tinykg.graph.relational_graph import EdgeWeights
from recbole_tinykg.quantization import Quantized
from recbole_tinykg.quantization.quantizer import Layout, Quantizers

Parameters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Users (n_users, D), entities (n_entities, D), latent (F, D), relations (R, D), attention."""


@without_autocast
def propagate_intents(
    streams: Tensor,  # (SAMPLING_SITES + L * SITES_PER_HOP, 2) int64
    plan: IntentPropagation,
    batch: Batch,
    parameters: Parameters,
) -> tuple[Tensor, Tensor]:
    """Rows (U + I, D) of the sum over hidden hops, and of the last hop before normalisation."""
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in parameters)
    return _PropagateIntents.apply(plan, keep, streams, batch.users, batch.items, *parameters)


@dataclass
class _Kept:
    """What a hop keeps; the last one has no unit rows."""

    share: Tensor  # (U, F)
    means: Quantized  # (U, D)
    users: UnitRows | None = None
    heads: UnitRows | None = None

    def tensors(self) -> list[Tensor]:
        rows = [t for kept in (self.users, self.heads) if kept is not None for t in kept.tensors()]
        return [self.share, *self.means.tensors(), *rows]

    def layouts(self) -> list[Layout]:
        rows = [kept.layouts() for kept in (self.users, self.heads) if kept is not None]
        return [self.means.layout, *(layout for pair in rows for layout in pair)]

    @classmethod
    def restore(cls, tensors: Iterator[Tensor], layouts: list[Layout]) -> _Kept:
        share, means = next(tensors), take(tensors, layouts[0])
        rows = (UnitRows.restore(tensors, layouts[i : i + 2]) for i in range(1, len(layouts), 2))
        return cls(share, means, *rows)


class _PropagateIntents(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: IntentPropagation,
        keep: bool,
        streams: Tensor,
        users: Tensor,
        items: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        mask = plan.edge_mask(streams)
        entities = parameters[1]
        edges = entities.new_ones(plan.graph.num_edges) if mask is None else mask.to(entities.dtype)
        walk = _Walk(
            plan, streams, Batch(users, items), parameters, plan.weights(edges, streams, False)
        )
        outputs, kept = walk.forward(keep)
        if keep:
            bits = [] if mask is None else [pack_mask(mask)]
            ctx.plan, ctx.layouts = plan, [hop.layouts() for hop in kept]
            codes = [tensor for hop in kept for tensor in hop.tensors()]
            small = (streams, users.int(), items.int())
            ctx.save_for_backward(*small, *parameters, *bits, *codes)
        return outputs

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_sums: Tensor, grad_last: Tensor) -> Any:
        streams, users, items, *saved = ctx.saved_tensors
        plan, tensors = ctx.plan, iter(saved)
        parameters = tuple(next(tensors) for _ in range(5))
        dtype, num_edges = parameters[1].dtype, plan.graph.num_edges
        if plan.kept_share == 0:
            edges = parameters[1].new_ones(num_edges)
        else:
            edges = unpack_mask(next(tensors), num_edges, dtype)
        weights = plan.weights(edges, streams, True)
        walk = _Walk(plan, streams, Batch(users.long(), items.long()), parameters, weights)
        kept = [_Kept.restore(tensors, layouts) for layouts in ctx.layouts]
        return None, None, None, None, None, *walk.backward(kept, grad_sums, grad_last)


class _Walk:
    """One forward or backward pass over the hops."""

    def __init__(
        self,
        plan: IntentPropagation,
        streams: Tensor,
        batch: Batch,
        parameters: tuple[Tensor, ...],
        weights: EdgeWeights,
    ) -> None:
        self.plan, self.batch, self.weights = plan, batch, weights
        self.sites = streams[SAMPLING_SITES:].view(-1, SITES_PER_HOP, 2)
        self.users, self.entities, self.latent, self.relations, self.attention = parameters
        self.directions = directions(self.attention, self.relations)
        self.rows = plan.graph.position.index_select(0, batch.items).long()  # (I,) -1: no head
        self.is_head = (self.rows >= 0).to(self.entities.dtype)[:, None]
        self.row = self.rows.clamp(min=0)

    def forward(self, keep: bool) -> tuple[tuple[Tensor, Tensor], list[_Kept]]:
        """Both outputs, and what each hop keeps."""
        graph, num_users = self.plan.graph, len(self.batch.users)
        ego = self.users.index_select(0, self.batch.users)
        source = self.entities
        sums = torch.cat([ego, source.index_select(0, self.batch.items)])
        last, kept = torch.empty_like(sums), []
        for hop in range(self.plan.num_hops):
            first, sites = hop == 0, self.sites[hop]
            guided, own = self._forward_users(source, ego, hop, keep)
            kept += own
            if hop == self.plan.num_hops - 1:
                received = graph.messages_of(self.rows, self.weights, source, self.relations, first)
                last[:num_users] = guided
                last[num_users:] = self.plan.drop(received, sites[6])
                break
            messages = graph.messages(self.weights, source, self.relations, first)
            source, length = normalize(self.plan.drop(messages, sites[6]))
            ego, user_length = normalize(guided)
            if keep:
                quantizer = self._quantizer_of(hop)
                own[0].users = UnitRows.keep(ego, user_length, quantizer.after(1), sites[1:3])
                own[0].heads = UnitRows.keep(source, length, quantizer.after(3), sites[3:5])
            sums[:num_users] += ego
            sums[num_users:].addcmul_(source.index_select(0, self.row), self.is_head)
        return (sums, last), kept

    def _forward_users(
        self, source: Tensor, ego: Tensor, hop: int, keep: bool
    ) -> tuple[Tensor, list[_Kept]]:
        """Users' messages (U, D) after dropout, and what they keep."""
        graph, sites = self.plan.graph, self.sites[hop]
        places = graph.places(hop == 0)
        means = graph.interactions.means_of(
            self.batch.users, self.weights.interactions, source, places
        )
        guided, share = guided_means(ego, means, self.latent, self.directions)
        guided = self.plan.drop(guided, sites[5])
        if not keep:
            return guided, []
        return guided, [_Kept(share, self._quantizer_of(hop).at(0).quantize(means, sites[0]))]

    def _quantizer_of(self, hop: int) -> Quantizers:
        """How a hop keeps its matrices, at its own sites."""
        return self.plan.quantizer.after(SAMPLING_SITES + hop * SITES_PER_HOP)

    def backward(
        self, kept: list[_Kept], grad_sums: Tensor, grad_last: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients of the five parameters."""
        num_users = len(self.batch.users)
        residual = grad_sums[:num_users], grad_sums[num_users:] * self.is_head
        grad_users, grad_heads = grad_last[:num_users], grad_last[num_users:]
        grad_relations = torch.zeros_like(self.relations)
        intents = IntentGradients(torch.zeros_like(self.latent), torch.zeros_like(self.directions))
        for hop in reversed(range(len(kept))):
            users, heads, sites = kept[hop].users, kept[hop].heads, self.sites[hop]
            if users is not None and heads is not None:
                grad_users = users.backward_(grad_users.add_(residual[0]))
                grad_heads = heads.backward_(add_rows_(grad_heads, self.row, residual[1]))
            source = self._new_source_gradient(hop)
            grad_users = self._backward_users(
                source, self.plan.drop(grad_users, sites[5]), kept, hop, intents
            )
            grad_heads = self.plan.drop(grad_heads, sites[6])
            self._backward_heads(source, grad_heads, kept, hop, grad_relations)
            grad_heads = source
        parts = directions_backward(intents.directions, self.attention, self.relations)
        add_rows_(grad_heads, self.batch.items, grad_sums[num_users:])
        all_users = torch.zeros_like(self.users)
        all_users.index_copy_(0, self.batch.users, grad_users.add_(residual[0]))
        return all_users, grad_heads, intents.latent, grad_relations.add_(parts[1]), parts[0]

    def _new_source_gradient(self, hop: int) -> Tensor:
        """Zeros for the gradient of a hop's input."""
        if hop == 0:
            return torch.zeros_like(self.entities)
        return self.entities.new_zeros(self.plan.graph.num_heads, self.entities.shape[1])

    def _backward_users(
        self, source: Tensor, gradient: Tensor, kept: list[_Kept], hop: int, out: IntentGradients
    ) -> Tensor:
        """Gradient (U, D) of the users' input; adds those of the source and of the intents."""
        before = kept[hop - 1].users if hop > 0 else None
        if before is None:
            ego = self.users.index_select(0, self.batch.users)
        else:
            ego = before.first.dequantize()
        inputs = ego, kept[hop].means.dequantize(), kept[hop].share
        grad_ego, grad_means = guided_means_backward(
            gradient, inputs, self.latent, self.directions, out
        )
        graph = self.plan.graph
        items = graph.num_items
        target, rows = (source[:items], None) if hop == 0 else (source, graph.item_of_head)
        graph.interactions.add_transposed_(
            target, self.batch.users, self.weights.interactions, grad_means, rows
        )
        return grad_ego

    def _backward_heads(
        self, source: Tensor, gradient: Tensor, kept: list[_Kept], hop: int, out: Tensor
    ) -> None:
        """Add the gradients of the source and of the relations, from that of the messages."""
        graph, degree, places = self.plan.graph, self.weights.inverse_degree, None
        if hop == len(kept) - 1:
            degree = degree.index_select(0, self.row)
            places = row_places(self.rows, graph.num_heads)
        before = kept[hop - 1].heads if hop > 0 else None

        def ego(rows: slice) -> Tensor:
            if before is None:
                return self.entities[rows]
            return before.first.rows(rows.start, rows.stop).dequantize()

        relation_gradient = RelationGradient(out, ego)
        graph.return_messages_(
            source, self.weights, gradient * degree, self.relations, relation_gradient, places
        )
