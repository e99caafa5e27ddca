r"""KGAT's stack of graph layers as one autograd function that saves codes instead of maps.

Layer l computes, for its target rows, :math:`s = A e`, an aggregator of e and s (`aggregators`) and
message dropout. Hidden layers compute every node; the last one only the rows that the batch reads,
which gives exactly the same loss and gradient. The function returns those rows of every layer, the
input included, so normalisation, concatenation and the loss work on a few thousand rows and no map
of all nodes leaves it.

Saves, per layer: codes of e (bits/8 B per element) and of s for rows that have neighbours, with
independent noise (`gcn`: codes of e + s), and one or two sign masks (1/8 B per element). The step's
noise streams, to draw dropout again. The first layer's e is two parameters, saved by reference.
Stock KGAT keeps 7.6 float32 maps of all nodes per layer.

Noise: the gradient that enters layer l carries noise of layers above only, drawn independently; the
layer multiplies it by its own e and s, each once per chain (see `aggregators`). So the gradient of
every parameter is unbiased.

Both directions work in row blocks. Forward computes messages, outputs and codes of one block at a
time, so a layer's input and output are the only maps of all nodes. Backward unpacks codes inside
their consumer, accumulates weight gradients in place and, if widths agree, writes the messages'
gradient over the outputs' gradient that it has read. Second derivatives are refused: codes cannot
give them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recbole_tinykg.functional.autograd import autocast_dtype, refuse_double_backward
from recbole_tinykg.functional.kgat.aggregators import (
    AGGREGATORS,
    Aggregator,
    Dropout,
    Inputs,
    LayerWeights,
    SavedBlock,
)
from recbole_tinykg.functional.kgat.saved_layer import LayerSaver, SavedLayer
from recbole_tinykg.functional.kgat.targets import AllNodes, BatchNodes, Targets
from recbole_tinykg.functional.rows import add_rows_
from recbole_tinykg.graph.adjacency import Adjacency
from recbole_tinykg.graph.distinct import table_rows
from recbole_tinykg.graph.node_rows import NodeRows, Parts
from recbole_tinykg.graph.row_blocks import RowBlock
from recbole_tinykg.quantization import Sites, StepSites


def add_propagation_sites(sites: Sites, num_layers: int, aggregator: str) -> None:
    """Name what each layer saves, ego embeddings (or e + s) and messages, and its dropout."""
    saves_sum = AGGREGATORS[aggregator].saves_sum
    for layer in range(1, num_layers + 1):
        saves_ego = layer > 1  # those of the first layer are parameters
        sites.add(f"layer{layer}.{'sum' if saves_sum else 'input'}", stored=saves_ego)
        sites.add(f"layer{layer}.messages", stored=not (saves_sum and saves_ego))
        sites.add(f"layer{layer}.dropout", stored=False)


@dataclass(frozen=True)
class Propagation:
    """What is fixed for a call.

    Attributes:
        adjacency: The sparse matrix A.
        aggregator: `bi`, `gcn` or `graphsage`.
        dropout: Probability of message dropout, 0 in evaluation.
        dtype: Type of the linear layers and of their outputs; None: that of the parameters.
    """

    adjacency: Adjacency
    aggregator: str
    dropout: float = 0.0
    dtype: torch.dtype | None = None

    @property
    def kind(self) -> type[Aggregator]:
        """The aggregator's arithmetic."""
        return AGGREGATORS[self.aggregator]

    def parts(self, whole: Tensor) -> Parts:
        """Return views of the two parts of a tensor over all nodes."""
        first, second = whole.split(self.adjacency.sizes)
        return first, second

    def layers(self, flat: tuple[Tensor, ...]) -> list[LayerWeights]:
        """Return the weights of each layer, from a flat row of all."""
        step = self.kind.num_weights
        return [flat[i : i + step] for i in range(0, len(flat), step)]

    def dropout_of(self, stream: Tensor, block: RowBlock) -> Dropout:
        """Return the message dropout of a block's rows."""
        return Dropout(stream, self.dropout, block.start)


def propagate(
    sites: StepSites,  # those of `add_propagation_sites`
    plan: Propagation,
    rows: NodeRows,
    parts: Parts,  # (sizes[p], D)
    weights: list[LayerWeights],  # per layer, in the aggregator's order
) -> tuple[Tensor, ...]:  # layers + 1 tensors (R, D_l)
    """Return the rows `rows` of the input and of every layer's output, before normalisation.

    Under `torch.autocast` layers compute in its type, and their outputs have it, as those of
    `torch.nn.Linear`.
    """
    plan = replace(plan, dtype=autocast_dtype(parts[0]))
    tensors = [*parts, *(tensor for layer in weights for tensor in layer)]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    with torch.autocast(parts[0].device.type, enabled=False):
        return _Propagate.apply(plan, keep, rows.num_first, rows.nodes, sites, *tensors)


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Propagation,
        keep: bool,
        num_first: int,
        nodes: Tensor,
        sites: StepSites,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        rows = NodeRows(nodes, num_first, plan.adjacency.sizes[0])
        parts = (tensors[0], tensors[1])
        ego: Tensor | Parts = parts
        weights = plan.layers(tensors[2:])
        outputs, saved = [rows.gather(parts)], []
        for i, layer in enumerate(weights):
            is_last = i == len(weights) - 1
            targets = BatchNodes(plan.adjacency, rows) if is_last else AllNodes(plan.adjacency)
            ego, layer_saved = _forward_layer(
                plan, targets, ego, layer, sites.group(f"layer{i + 1}"), keep
            )
            saved.append(layer_saved)
            outputs.append(ego if is_last else table_rows(ego, nodes))
        if keep:
            ctx.plan, ctx.table, ctx.num_first = plan, sites.table, num_first
            ctx.num_tensors, ctx.layouts = len(tensors), [layer.layouts() for layer in saved]
            codes = [tensor for layer in saved for tensor in layer.tensors()]
            ctx.save_for_backward(nodes.int(), sites.streams, *tensors, *codes)
        return tuple(outputs)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, *grads: Tensor) -> Any:
        nodes, streams, *flat = ctx.saved_tensors
        plan: Propagation = ctx.plan
        sites: StepSites = ctx.table.at(streams)
        rows = NodeRows(nodes.long(), ctx.num_first, plan.adjacency.sizes[0])
        tensors, codes = tuple(flat[: ctx.num_tensors]), iter(flat[ctx.num_tensors :])
        saved = [SavedLayer.restore(codes, layouts, plan.kind.num_masks) for layouts in ctx.layouts]
        weights = plan.layers(tensors[2:])
        weight_grads = [tuple(torch.zeros_like(weight) for weight in layer) for layer in weights]
        gradient = grads[-1].contiguous()
        for i in reversed(range(len(weights))):
            is_last = i == len(weights) - 1
            targets = BatchNodes(plan.adjacency, rows) if is_last else AllNodes(plan.adjacency)
            ego = (tensors[0], tensors[1]) if i == 0 else None
            stream = sites[f"layer{i + 1}.dropout"].stream
            gradient = _backward_layer(
                plan, targets, gradient, ego, saved.pop(), weights[i], weight_grads[i], stream
            ).to(grads[i].dtype)
            add_rows_(gradient, rows.nodes.clamp(min=0), grads[i])
        flat_grads = [grad for layer in weight_grads for grad in layer]
        return *(None,) * 5, *plan.parts(gradient), *flat_grads


def _forward_layer(
    plan: Propagation,
    targets: Targets,
    ego: Tensor | Parts,  # (num_nodes, D), or the two parameters
    weights: LayerWeights,
    sites: StepSites,
    keep: bool,
) -> tuple[Tensor, SavedLayer]:
    """Return the output rows (num_rows, D') of a layer, and what it saves."""
    parts, saves_ego = (plan.parts(ego), True) if isinstance(ego, Tensor) else (ego, False)
    dtype = plan.dtype or parts[0].dtype
    weights = tuple(weight.to(dtype) for weight in weights)
    out = weights[0].new_empty(targets.num_rows, weights[0].shape[0])
    saver = LayerSaver(sites, plan.kind, targets, saves_ego) if keep else None
    stream = sites["dropout"].stream
    for block, messages in targets.messages(parts):
        ego_rows = targets.ego(parts, block).to(dtype)
        x = Inputs(ego_rows, messages.to(dtype), targets.message_index(block))
        dropout = plan.dropout_of(stream, block)
        masks = plan.kind.forward(out[block.start : block.stop], x, weights, dropout)
        if saver is not None:
            saver.add(block, x, masks)
    return out, SavedLayer() if saver is None else saver.finish()


def _backward_layer(
    plan: Propagation,
    targets: Targets,
    gradient: Tensor,  # (num_rows, D')
    ego: Parts | None,
    saved: SavedLayer,
    weights: LayerWeights,
    weight_grads: LayerWeights,
    stream: Tensor,  # (2,) of the dropout
) -> Tensor:
    """Return the gradient (num_nodes, D) of the ego embeddings; add to the weights' gradients."""
    dim = weights[0].shape[1] // (2 if plan.aggregator == "graphsage" else 1)
    weights = tuple(weight.to(gradient.dtype) for weight in weights)
    out = targets.new_gradient(gradient, dim)
    message_grads = targets.message_gradient(gradient, dim)
    for block in targets.blocks:
        messages = slice(block.first_message, block.last_message)
        if saved.e is None:
            assert ego is not None
            e = targets.ego(ego, block).to(gradient.dtype)
        else:
            e = saved.e.rows(block.start, block.stop).dequantize()
        s = None if saved.s is None else saved.s.rows(messages.start, messages.stop)
        masks = (saved.masks[0][block.start : block.stop], *(m[messages] for m in saved.masks[1:]))
        index, dropout = targets.message_index(block), plan.dropout_of(stream, block)
        saved_block = SavedBlock(e, s, index, masks, weights, weight_grads, dropout)
        grad_e = targets.gradient_rows(out, block)
        g = gradient[block.start : block.stop]
        plan.kind.backward(grad_e, message_grads[messages], g, saved_block)
        targets.write(out, block, grad_e)
    targets.return_messages_(out, message_grads)
    return out
