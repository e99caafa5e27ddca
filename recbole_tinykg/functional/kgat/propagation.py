r"""KGAT's stack of graph layers as one autograd function that keeps codes instead of maps.

Layer l computes, for its target rows, :math:`s = A e`, an aggregator of e and s (`aggregators`) and
message dropout. Hidden layers compute every node; the last one only the rows that the batch reads,
which gives exactly the same loss and gradient. The function returns those rows of every layer, the
input included, so normalisation, concatenation and the loss work on a few thousand rows and no map
of all nodes leaves it.

Saves, per layer: codes of e (bits/8 B per element) and of s for rows that have neighbours, with
independent noise (`gcn`: codes of e + s), one or two sign masks (1/8 B per element), the stream
position of the dropout. The first layer's e is two parameters, kept by reference. Stock KGAT keeps
7.6 float32 maps of all nodes per layer.

Noise: the gradient that enters layer l carries noise of layers above only, drawn independently; the
layer multiplies it by its own e and s, each once per chain (see `aggregators`). So the gradient of
every parameter is unbiased.

Both directions work in row blocks. Forward computes a block's messages, outputs and codes, so that
beside a layer's input its output is the only map of all nodes. Backward unpacks codes inside their
consumer, accumulates weight gradients in place and, where widths agree, writes the messages'
gradient over that of the outputs it has read. Second derivatives are refused: codes cannot give
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import (
    autocast_dtype,
    refuse_double_backward,
    without_autocast,
)
from recbole_tinykg.functional.kgat.aggregators import (
    AGGREGATORS,
    Aggregator,
    Dropout,
    KeptBlock,
    Weights,
)
from recbole_tinykg.functional.kgat.saved_layer import Keeper, Kept
from recbole_tinykg.functional.kgat.targets import AllNodes, BatchNodes, Targets
from recbole_tinykg.graph.adjacency import Adjacency
from recbole_tinykg.graph.node_rows import NodeRows, Parts
from recbole_tinykg.graph.row_blocks import RowBlock
from recbole_tinykg.quantization.quantizer import Quantizers

SITES_PER_LAYER = 3
"""Streams that a layer draws from: the noise of e, the noise of s, the dropout."""


@dataclass(frozen=True)
class Propagation:
    """What is fixed for a call.

    Attributes:
        adjacency: the sparse matrix A.
        aggregator: `bi`, `gcn` or `graphsage`.
        quantizer: how activations are kept; e of layer l at site SITES_PER_LAYER * l, s next to it.
        dropout: probability of message dropout, 0 in evaluation.
        dtype: type of the linear layers and of their outputs; None: that of the parameters.
    """

    adjacency: Adjacency
    aggregator: str
    quantizer: Quantizers
    dropout: float = 0.0
    dtype: torch.dtype | None = None

    @property
    def kind(self) -> type[Aggregator]:
        """The aggregator's arithmetic."""
        return AGGREGATORS[self.aggregator]

    def parts(self, whole: Tensor) -> Parts:
        """View of the two parts of a tensor over all nodes."""
        first, second = whole.split(self.adjacency.sizes)
        return first, second

    def layers(self, flat: tuple[Tensor, ...]) -> list[Weights]:
        """The weights of each layer, from all of them in one row."""
        step = self.kind.num_weights
        return [flat[i : i + step] for i in range(0, len(flat), step)]

    def quantizer_of(self, layer: int) -> Quantizers:
        """How a layer keeps e (site 0) and s (site 1)."""
        return self.quantizer.after(layer * SITES_PER_LAYER)

    def dropout_of(self, streams: Tensor, block: RowBlock) -> Dropout:
        """Message dropout of a block's rows."""
        return Dropout(streams[2], self.dropout, block.start)


def propagate(
    streams: Tensor,  # (layers, SITES_PER_LAYER, 2) int64
    plan: Propagation,
    rows: NodeRows,
    parts: Parts,  # (sizes[p], D)
    weights: list[Weights],  # per layer, in the aggregator's order
) -> tuple[Tensor, ...]:
    """Rows `rows` of the input and of every layer's output, before normalisation.

    Under `torch.autocast` layers compute in its type, and their outputs have it, as those of
    `torch.nn.Linear`.

    Returns:
        A tuple of layers + 1 tensors (R, D_l).
    """
    plan = replace(plan, dtype=autocast_dtype(parts[0]))
    return _propagate(streams, plan, rows, parts, weights)


@without_autocast
def _propagate(
    streams: Tensor, plan: Propagation, rows: NodeRows, parts: Parts, weights: list[Weights]
) -> tuple[Tensor, ...]:
    tensors = [*parts, *(tensor for layer in weights for tensor in layer)]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return _Propagate.apply(plan, keep, rows.num_first, rows.nodes, streams, *tensors)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Propagation,
        keep: bool,
        num_first: int,
        nodes: Tensor,
        streams: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        rows = NodeRows(nodes, num_first, plan.adjacency.sizes[0])
        parts = (tensors[0], tensors[1])
        ego: Tensor | Parts = parts
        weights = plan.layers(tensors[2:])
        outputs, kept = [rows.gather(parts)], []
        for i, layer in enumerate(weights):
            is_last = i == len(weights) - 1
            targets = BatchNodes(plan.adjacency, rows) if is_last else AllNodes(plan.adjacency)
            ego, layer_kept = _forward_layer(
                plan, targets, ego, layer, streams[i], plan.quantizer_of(i) if keep else None
            )
            kept.append(layer_kept)
            outputs.append(ego if is_last else ego.index_select(0, nodes))
        if keep:
            ctx.plan, ctx.num_first, ctx.num_tensors = plan, num_first, len(tensors)
            ctx.layouts = [layer.layouts() for layer in kept]
            codes = [tensor for layer in kept for tensor in layer.tensors()]
            ctx.save_for_backward(nodes.int(), streams, *tensors, *codes)
        return tuple(outputs)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, *grads: Tensor) -> Any:
        nodes, streams, *saved = ctx.saved_tensors
        plan: Propagation = ctx.plan
        rows = NodeRows(nodes.long(), ctx.num_first, plan.adjacency.sizes[0])
        tensors = tuple(saved[: ctx.num_tensors])
        codes = iter(saved[ctx.num_tensors :])
        kept = [Kept.restore(codes, layouts, plan.kind.num_masks) for layouts in ctx.layouts]
        weights = plan.layers(tensors[2:])
        weight_grads = [tuple(torch.zeros_like(weight) for weight in layer) for layer in weights]
        gradient = grads[-1].contiguous()
        for i in reversed(range(len(weights))):
            is_last = i == len(weights) - 1
            targets = BatchNodes(plan.adjacency, rows) if is_last else AllNodes(plan.adjacency)
            ego = (tensors[0], tensors[1]) if i == 0 else None
            gradient = _backward_layer(
                plan, targets, gradient, ego, kept.pop(), weights[i], weight_grads[i], streams[i]
            ).to(grads[i].dtype)
            gradient.index_add_(0, rows.nodes, grads[i])
        flat = [grad for layer in weight_grads for grad in layer]
        return None, None, None, None, None, *plan.parts(gradient), *flat


def _forward_layer(
    plan: Propagation,
    targets: Targets,
    ego: Tensor | Parts,  # (num_nodes, D), or the two parameters
    weights: Weights,
    streams: Tensor,  # (SITES_PER_LAYER, 2)
    quantizer: Quantizers | None,  # None: nothing is kept
) -> tuple[Tensor, Kept]:
    """Output rows (num_rows, D') of a layer, and what it keeps."""
    parts, keeps_ego = (plan.parts(ego), True) if isinstance(ego, Tensor) else (ego, False)
    dtype = plan.dtype or parts[0].dtype
    weights = tuple(weight.to(dtype) for weight in weights)
    out = weights[0].new_empty(targets.num_rows, weights[0].shape[0])
    keeper = None
    if quantizer is not None:
        keeper = Keeper(quantizer, plan.kind, targets, streams, keeps_ego)
    for block, messages in targets.messages(parts):
        e, s = targets.ego(parts, block).to(dtype), messages.to(dtype)
        index = targets.message_index(block)
        dropout = plan.dropout_of(streams, block)
        masks = plan.kind.forward(out[block.start : block.stop], e, s, index, weights, dropout)
        if keeper is not None:
            keeper.add(block, e, s, index, masks)
    return out, Kept() if keeper is None else keeper.kept()


def _backward_layer(
    plan: Propagation,
    targets: Targets,
    gradient: Tensor,  # (num_rows, D')
    ego: Parts | None,
    kept: Kept,
    weights: Weights,
    weight_grads: Weights,
    streams: Tensor,
) -> Tensor:
    """Gradient (num_nodes, D) of the layer's ego embeddings; adds to the weights' gradients."""
    dim = weights[0].shape[1] // (2 if plan.aggregator == "graphsage" else 1)
    weights = tuple(weight.to(gradient.dtype) for weight in weights)
    out = targets.new_gradient(gradient, dim)
    message_grads = targets.message_gradient(gradient, dim)
    for block in targets.blocks:
        messages = slice(block.first_message, block.last_message)
        if kept.e is None:
            assert ego is not None
            e = targets.ego(ego, block).to(gradient.dtype)
        else:
            e = kept.e.rows(block.start, block.stop).dequantize()
        s = None if kept.s is None else kept.s.rows(messages.start, messages.stop)
        masks = (kept.masks[0][block.start : block.stop], *(m[messages] for m in kept.masks[1:]))
        kept_block = KeptBlock(
            e,
            s,
            targets.message_index(block),
            masks,
            weights,
            weight_grads,
            plan.dropout_of(streams, block),
        )
        grad_e = targets.gradient_rows(out, block)
        g = gradient[block.start : block.stop]
        plan.kind.backward(grad_e, message_grads[messages], g, kept_block)
        targets.write(out, block, grad_e)
    targets.return_messages_(out, message_grads)
    return out
