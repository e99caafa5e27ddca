r"""KGIN's hops as one autograd function that saves codes instead of maps.

A hop gives every head of the knowledge graph the mean of its tails times their relations
(`paired_edges`), every user of the batch the mean of the user's items, guided by intents
(`guidance`), drops messages out and scales rows to unit length. A user's row is read by that user
alone, so users have rows for the batch only; the last hop's entities are the batch's items. The
function returns those rows of the sum over hidden hops, the parameters included, and of the last
hop *before* scaling, because the loss knows that part's gradient in forward (`summed_bpr`).

Saves, besides parameters by reference: the step's noise streams, to draw dropout again, and one bit
per edge if a step leaves edges out. Per hidden hop, two codes of each unit row (bits/4 B per
element) of heads and of the batch's users, and their lengths. Per hop, codes of the users' item
means and the intents' shares (4 F bytes per user). The last hop saves nothing of its entities, the
first nothing of its input.

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
from recbole_tinykg.functional.kgin.step import BatchRows, IntentPropagation
from recbole_tinykg.functional.kgin.unit_rows import UnitRows, normalize
from recbole_tinykg.functional.rows import add_rows_, write_distinct_rows_
from recbole_tinykg.graph.csr import row_places
from recbole_tinykg.graph.distinct import table_rows
from recbole_tinykg.graph.paired_edges import RelationGradient
from recbole_tinykg.graph.relational_graph import EdgeWeights
from recbole_tinykg.quantization import Quantized, StepSites
from recbole_tinykg.quantization.quantizer import Layout

IntentParameters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Users (n_users, D), entities (n_entities, D), latent (F, D), relations (R, D), attention."""


@without_autocast
def propagate_intents(
    sites: StepSites,  # those of `add_intent_sites`
    plan: IntentPropagation,
    batch: BatchRows,
    parameters: IntentParameters,
) -> tuple[Tensor, Tensor]:
    """Return rows (U + I, D) of the sum over hidden hops, and of the last hop, not normalised."""
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in parameters)
    rows = batch.static_shapes, batch.users, batch.items
    return _PropagateIntents.apply(plan, keep, sites, *rows, *parameters)


@dataclass
class _SavedHop:
    """What a hop saves; the last one has no unit rows."""

    share: Tensor  # (U, F)
    means: Quantized  # (U, D)
    unit_rows: tuple[UnitRows, ...] = ()  # of users and of heads

    def tensors(self) -> list[Tensor]:
        flat = [tensor for rows in self.unit_rows for tensor in rows.tensors()]
        return [self.share, *self.means.tensors(), *flat]

    def layouts(self) -> list[Layout]:
        units = [layout for rows in self.unit_rows for layout in rows.layouts()]
        return [self.means.layout, *units]

    @classmethod
    def restore(cls, tensors: Iterator[Tensor], layouts: list[Layout]) -> _SavedHop:
        share, means = next(tensors), Quantized.unflatten(tensors, layouts[0])
        rows = (UnitRows.restore(tensors, layouts[i : i + 2]) for i in range(1, len(layouts), 2))
        return cls(share, means, tuple(rows))


class _PropagateIntents(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: IntentPropagation,
        keep: bool,
        sites: StepSites,
        static_shapes: bool,
        users: Tensor,
        items: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        mask = plan.edge_mask(sites)
        entities = parameters[1]
        edges = entities.new_ones(plan.graph.num_edges) if mask is None else mask.to(entities.dtype)
        weights = plan.weights(edges, sites, transposed=False)
        walk = _Walk(plan, sites, BatchRows(users, items, static_shapes), parameters, weights)
        outputs, saved = walk.forward(keep)
        if keep:
            bits = [] if mask is None else [pack_mask(mask)]
            ctx.plan, ctx.table, ctx.layouts = plan, sites.table, [hop.layouts() for hop in saved]
            ctx.static_shapes = static_shapes
            codes = [tensor for hop in saved for tensor in hop.tensors()]
            small = (sites.streams, users.int(), items.int())
            ctx.save_for_backward(*small, *parameters, *bits, *codes)
        return outputs

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad_sums: Tensor, grad_last: Tensor) -> Any:
        streams, users, items, *flat = ctx.saved_tensors
        plan, sites, tensors = ctx.plan, ctx.table.at(streams), iter(flat)
        parameters = tuple(next(tensors) for _ in range(5))
        dtype, num_edges = parameters[1].dtype, plan.graph.num_edges
        if plan.kept_share == 0:
            edges = parameters[1].new_ones(num_edges)
        else:
            edges = unpack_mask(next(tensors), num_edges, dtype)
        weights = plan.weights(edges, sites, transposed=True)
        batch = BatchRows(users.long(), items.long(), ctx.static_shapes)
        walk = _Walk(plan, sites, batch, parameters, weights)
        saved = [_SavedHop.restore(tensors, layouts) for layouts in ctx.layouts]
        return *(None,) * 6, *walk.backward(saved, grad_sums, grad_last)


class _Walk:
    """One forward or backward pass over the hops."""

    def __init__(
        self,
        plan: IntentPropagation,
        sites: StepSites,
        batch: BatchRows,
        parameters: tuple[Tensor, ...],
        weights: EdgeWeights,
    ) -> None:
        self.plan, self.batch, self.weights = plan, batch, weights
        self.sites = [sites.group(f"hop{hop + 1}") for hop in range(plan.num_hops)]
        self.users, self.entities, self.latent, self.relations, self.attention = parameters
        self.directions = directions(self.attention, self.relations)
        self.rows = plan.graph.head_places(batch.items)  # (I,) -1: no head
        self.is_head = (self.rows >= 0).to(self.entities.dtype)[:, None]
        self.row = self.rows.clamp(min=0)

    def forward(self, keep: bool) -> tuple[tuple[Tensor, Tensor], list[_SavedHop]]:
        """Return both outputs, and what each hop saves."""
        graph, num_users = self.plan.graph, len(self.batch.users)
        ego = table_rows(self.users, self.batch.users)
        source = self.entities
        sums = torch.cat([ego, table_rows(source, self.batch.items)])
        last, saved = torch.empty_like(sums), []
        for hop in range(self.plan.num_hops):
            first, sites = hop == 0, self.sites[hop]
            guided, own = self._forward_users(source, ego, hop, keep)
            saved += own
            if hop == self.plan.num_hops - 1:
                received = graph.messages_of(
                    self.rows,
                    self.weights,
                    source,
                    self.relations,
                    first,
                    static_shapes=self.batch.static_shapes,
                )
                last[:num_users] = guided
                last[num_users:] = self.plan.drop(received, sites["head_dropout"].stream)
                break
            messages = graph.messages(self.weights, source, self.relations, first)
            source, length = normalize(self.plan.drop(messages, sites["head_dropout"].stream))
            ego, user_length = normalize(guided)
            if keep:
                users = UnitRows.quantize(ego, user_length, sites["users"], sites["users_again"])
                heads = UnitRows.quantize(source, length, sites["heads"], sites["heads_again"])
                own[0].unit_rows = users, heads
            sums[:num_users] += ego
            sums[num_users:].addcmul_(source.index_select(0, self.row), self.is_head)
        return (sums, last), saved

    def _forward_users(
        self, source: Tensor, ego: Tensor, hop: int, keep: bool
    ) -> tuple[Tensor, list[_SavedHop]]:
        """Return the users' messages (U, D) after dropout, and what they save."""
        graph, sites = self.plan.graph, self.sites[hop]
        places = graph.places(hop == 0)
        means = graph.interactions.means_of(
            self.batch.users, self.weights.interactions, source, places
        )
        guided, share = guided_means(ego, means, self.latent, self.directions)
        guided = self.plan.drop(guided, sites["user_dropout"].stream)
        if not keep:
            return guided, []
        return guided, [_SavedHop(share, sites["item_means"].quantize(means))]

    def backward(
        self, saved: list[_SavedHop], grad_sums: Tensor, grad_last: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the gradients of the five parameters."""
        num_users = len(self.batch.users)
        residual = grad_sums[:num_users], grad_sums[num_users:] * self.is_head
        grad_users, grad_heads = grad_last[:num_users], grad_last[num_users:]
        grad_relations = torch.zeros_like(self.relations)
        intents = IntentGradients(torch.zeros_like(self.latent), torch.zeros_like(self.directions))
        for hop in reversed(range(len(saved))):
            sites = self.sites[hop]
            if saved[hop].unit_rows:
                users, heads = saved[hop].unit_rows
                grad_users = users.backward_(grad_users.add_(residual[0]))
                grad_heads = heads.backward_(add_rows_(grad_heads, self.row, residual[1]))
            num_rows = len(self.entities) if hop == 0 else self.plan.graph.num_heads
            source = self.entities.new_zeros(num_rows, self.entities.shape[1])  # its gradient
            grad_users = self.plan.drop(grad_users, sites["user_dropout"].stream)
            grad_users = self._backward_users(source, grad_users, saved, hop, intents)
            grad_heads = self.plan.drop(grad_heads, sites["head_dropout"].stream)
            self._backward_heads(source, grad_heads, saved, hop, grad_relations)
            grad_heads = source
        parts = directions_backward(intents.directions, self.attention, self.relations)
        add_rows_(grad_heads, self.batch.items.clamp(min=0), grad_sums[num_users:])
        all_users = write_distinct_rows_(
            torch.zeros_like(self.users),
            self.batch.users,
            grad_users.add_(residual[0]),
            static_shapes=self.batch.static_shapes,
        )
        return all_users, grad_heads, intents.latent, grad_relations.add_(parts[1]), parts[0]

    def _backward_users(
        self,
        source: Tensor,
        gradient: Tensor,
        saved: list[_SavedHop],
        hop: int,
        out: IntentGradients,
    ) -> Tensor:
        """Return the gradient (U, D) of the users' input; add those of source and intents."""
        if hop == 0:
            ego = table_rows(self.users, self.batch.users)
        else:
            ego = saved[hop - 1].unit_rows[0].first.dequantize()
        inputs = ego, saved[hop].means.dequantize(), saved[hop].share
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
        self, source: Tensor, gradient: Tensor, saved: list[_SavedHop], hop: int, out: Tensor
    ) -> None:
        """Add the gradients of the source and of the relations, from that of the messages."""
        graph, degree, places = self.plan.graph, self.weights.inverse_degree, None
        if hop == len(saved) - 1:
            degree = degree.index_select(0, self.row)
            places = row_places(self.rows, graph.num_heads)

        def ego(rows: slice) -> Tensor:
            if hop == 0:
                return self.entities[rows]
            heads = saved[hop - 1].unit_rows[1]
            return heads.first.rows(rows.start, rows.stop).dequantize()

        relation_gradient = RelationGradient(out, ego)
        graph.return_messages_(
            source, self.weights, gradient * degree, self.relations, relation_gradient, places
        )
