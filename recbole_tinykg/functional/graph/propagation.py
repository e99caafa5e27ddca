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

Backward works in row blocks: codes are unpacked inside their consumer, weight gradients accumulate
in place, and at most two float maps of all nodes are alive. Second derivatives are refused: codes
cannot give them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.graph.adjacency import Adjacency, RowBlock
from recbole_tinykg.functional.graph.aggregators import (
    AGGREGATORS,
    Aggregator,
    Dropout,
    KeptBlock,
    Masks,
    Weights,
)
from recbole_tinykg.functional.graph.targets import AllNodes, BatchNodes, NodeRows, Parts
from recbole_tinykg.functional.guards import (
    autocast_dtype,
    refuse_double_backward,
    without_autocast,
)
from recbole_tinykg.quantizer import Layout, Quantized, Quantizer

SITES_PER_LAYER = 3
"""Streams that a layer draws from: the noise of e, the noise of s, the dropout."""

Targets = AllNodes | BatchNodes


@dataclass(frozen=True)
class Propagation:
    """What is fixed for a call.

    Attributes:
        adjacency: the sparse matrix A.
        aggregator: `bi`, `gcn` or `graphsage`.
        quantizer: how activations are kept.
        dropout: probability of message dropout, 0 in evaluation.
        dtype: type of the linear layers and of their outputs; None: that of the parameters.
    """

    adjacency: Adjacency
    aggregator: str
    quantizer: Quantizer
    dropout: float = 0.0
    dtype: torch.dtype | None = None

    @property
    def kind(self) -> type[Aggregator]:
        """The aggregator's arithmetic."""
        return AGGREGATORS[self.aggregator]

    def parts(self, whole: Tensor) -> Parts:
        """Views of the two parts of a tensor over all nodes."""
        first, second = whole.split(self.adjacency.sizes)
        return first, second

    def layers(self, flat: tuple[Tensor, ...]) -> list[Weights]:
        """The weights of each layer, from all of them in one row."""
        step = self.kind.num_weights
        return [flat[i : i + step] for i in range(0, len(flat), step)]

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
            ego, layer_kept = _forward_layer(plan, targets, ego, layer, streams[i], keep)
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
        kept = [_Kept.restore(codes, layouts, plan.kind.num_masks) for layouts in ctx.layouts]
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


@dataclass
class _Kept:
    """What a layer keeps: sign masks, codes of e (None: by reference) and s (None: in `e`)."""

    e: Quantized | None = None
    s: Quantized | None = None
    masks: Masks = ()

    def tensors(self) -> list[Tensor]:
        """All of it, flat."""
        codes = [t for kept in (self.e, self.s) if kept is not None for t in kept.tensors()]
        return [*codes, *self.masks]

    def layouts(self) -> tuple[Layout | None, Layout | None]:
        """What `restore` needs beside the tensors."""
        return _layout(self.e), _layout(self.s)

    @classmethod
    def restore(
        cls, tensors: Any, layouts: tuple[Layout | None, Layout | None], num_masks: int
    ) -> _Kept:
        """The inverse of `tensors`, from an iterator over them."""
        e, s = (
            None
            if layout is None
            else Quantized.from_tensors(_take(tensors, layout.num_tensors), layout)
            for layout in layouts
        )
        return cls(e, s, _take(tensors, num_masks))


def _layout(kept: Quantized | None) -> Layout | None:
    return None if kept is None else kept.layout


def _take(tensors: Any, count: int) -> tuple[Tensor, ...]:
    return tuple(next(tensors) for _ in range(count))


def _forward_layer(
    plan: Propagation,
    targets: Targets,
    ego: Tensor | Parts,  # (num_nodes, D), or the two parameters
    weights: Weights,
    streams: Tensor,  # (SITES_PER_LAYER, 2)
    keep: bool,
) -> tuple[Tensor, _Kept]:
    """Output rows (num_rows, D') of a layer, and what it keeps."""
    parts = plan.parts(ego) if isinstance(ego, Tensor) else ego
    messages = targets.messages(parts).to(plan.dtype)
    weights = tuple(weight.to(messages.dtype) for weight in weights)
    out = messages.new_empty(targets.num_rows, weights[0].shape[0])
    masks = [
        plan.kind.forward(
            out[block.start : block.stop],
            targets.ego(parts, block).to(messages.dtype),
            messages[block.first_message : block.last_message],
            targets.message_index(block),
            weights,
            plan.dropout_of(streams, block),
        )
        for block in targets.blocks
    ]
    if not keep:
        return out, _Kept()
    joined = tuple(torch.cat(column) for column in zip(*masks, strict=True))
    return out, _Kept(*_keep(plan, targets, ego, messages, streams), joined)


def _keep(
    plan: Propagation, targets: Targets, ego: Tensor | Parts, messages: Tensor, streams: Tensor
) -> tuple[Quantized | None, Quantized | None]:
    """Codes of e and s, or of e + s where that is enough; parameters stay as they are."""
    quantize = plan.quantizer.quantize
    if not isinstance(ego, Tensor):
        return None, quantize(messages, streams[1])
    e = targets.gather(ego)
    if not plan.kind.keeps_sum:
        return quantize(e, streams[0]), quantize(messages, streams[1])
    return quantize(targets.add_messages(e, messages), streams[0]), None


def _backward_layer(
    plan: Propagation,
    targets: Targets,
    gradient: Tensor,  # (num_rows, D')
    ego: Parts | None,
    kept: _Kept,
    weights: Weights,
    weight_grads: Weights,
    streams: Tensor,
) -> Tensor:
    """Gradient (num_nodes, D) of the layer's ego embeddings; adds to the weights' gradients."""
    dim = weights[0].shape[1] // (2 if plan.aggregator == "graphsage" else 1)
    weights = tuple(weight.to(gradient.dtype) for weight in weights)
    out = targets.new_gradient(gradient, dim)
    message_grads = gradient.new_empty(targets.num_messages, dim)
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
