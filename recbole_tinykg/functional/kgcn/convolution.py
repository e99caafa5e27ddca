r"""Items seen through their neighbours: the graph convolution of KGCN and KGNN-LS.

Layer i turns the vectors v of hops 0 to H - i into those of hops 0 to H - i - 1 (KGCN, equations 4
to 6, algorithm 1):

.. math:: v'_e = \sigma(W_i\, c(v_e, s_e) + b_i), \qquad s_e = \frac1K \sum_k p_{e,k} v_{n(e,k)}

with c the sum, the concatenation, or :math:`s_e` alone. (The paper has no 1/K; RecBole takes the
mean of the weighted neighbours.) :math:`\sigma` is ReLU, and tanh in the last layer.

The first layer reads the embedding table, so its neighbours are a sparse product with K entries per
row. Backward builds its input again, exactly, from the parameter, and goes through that product in
one sweep over the entries, in blocks of rows: nothing of size N x K^H x d exists in it.

Saves, per element: the output of a hidden layer at `bits` (it gives the input of the next layer,
for dW and dp) and one bit for its sign; :math:`1 - y^2`, tanh's derivative, at `bits`. The weights
p in float32, 1/d as many. The items.

Noise: gradients that flow down carry that of :math:`1 - y^2` only, as W, p and the signs are exact.
It meets the codes of a hidden output once, in dW and dp, which lead nowhere else. Every matrix has
a site of its own. :math:`1 - \hat y^2` would be biased, and codes of :math:`1 - y^2`, which
stays near 1, have less noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.functional.autograd import refuse_double_backward, without_autocast
from recbole_tinykg.functional.rows import add_rows_
from recbole_tinykg.graph.receptive_field import ReceptiveField
from recbole_tinykg.quantization import Quantized, Sites, StepSites
from recbole_tinykg.quantization.quantizer import Layout

AGGREGATORS = ("sum", "neighbor", "concat")

EDGE_BLOCK = 16384
"""Neighbours at a time in the first layer's backward: at K = 4, inputs of 1 MiB at 64 floats."""

DEVICE_EDGE_BLOCK = 16 * EDGE_BLOCK
"""The same on a GPU, which a block has to keep busy: inputs of 16 MiB."""


def add_neighborhood_sites(sites: Sites, num_hops: int, aggregator: str) -> None:
    """Name the output of each layer at each hop that it has."""
    for layer in range(num_hops):
        for hop in _hops(num_hops, aggregator, layer):
            sites.add(_site_name(layer, hop))


def _site_name(layer: int, hop: int) -> str:
    return f"layer{layer + 1}.hop{hop}"


@without_autocast
def aggregate_neighborhood(
    sites: StepSites,  # those of `add_neighborhood_sites`
    field: ReceptiveField,
    aggregator: str,
    items: Tensor,  # (N,)
    entities: Tensor,  # (num_entities, d)
    attention: tuple[Tensor, ...],  # H tensors (N * K^h, K)
    weights: tuple[Tensor, ...],  # H times W (d, d) or (d, 2 d), b (d,)
) -> Tensor:  # (N, d)
    """Return the vectors of the items after H layers; see the head of the file."""
    plan = _Plan(field, aggregator)
    tensors = (items.int(), entities, *attention, *weights)
    return _AggregateNeighborhood.apply(plan, sites, *tensors)


def _hops(num_hops: int, aggregator: str, layer: int) -> range:
    stop = num_hops - layer
    return range(stop - 1 if aggregator == "neighbor" else 0, stop)


class _Plan(NamedTuple):
    """What forward and backward share besides tensors."""

    field: ReceptiveField
    aggregator: str

    def hops(self, layer: int) -> range:
        """Return the hops whose outputs are read; `neighbor` does not read an entity's own."""
        return _hops(self.field.num_hops, self.aggregator, layer)


class _Tensors(NamedTuple):
    """The tensors of a call, or their gradients."""

    items: Tensor
    entities: Tensor
    attention: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    @classmethod
    def of(cls, plan: _Plan, flat: tuple[Tensor, ...]) -> _Tensors:
        border = 2 + plan.field.num_hops
        return cls(flat[0], flat[1], flat[2:border], flat[border:])

    def linear(self, layer: int) -> tuple[Tensor, ...]:  # W, b
        return self.weights[2 * layer : 2 * layer + 2]


class _AggregateNeighborhood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, sites: StepSites, *flat: Tensor) -> Tensor:
        walk = _Walk.of(plan, flat)
        saved: list[Tensor] = []
        vectors: dict[int, Tensor] = {}
        ctx.plan, ctx.layouts = plan, []
        for layer in range(plan.field.num_hops):
            below, vectors = vectors, {}
            weight, bias = walk.tensors.linear(layer)
            for hop in plan.hops(layer):
                x = walk.ends(layer, hop, below).mixed(plan.aggregator)
                vectors[hop], *kinds = _activate_(torch.addmm(bias, x, weight.t()), plan, layer)
                if any(ctx.needs_input_grad):
                    code = sites[_site_name(layer, hop)].quantize(kinds[0])
                    ctx.layouts.append(code.layout)
                    saved += (*code.tensors(), *kinds[1:])
        ctx.save_for_backward(*flat, *saved)
        return vectors[0]

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, grad: Tensor) -> Any:
        plan: _Plan = ctx.plan
        flat, layers = _read(plan, ctx.saved_tensors, ctx.layouts)
        walk = _Walk.of(plan, flat)
        grads = _Tensors.of(plan, (flat[0], *(torch.zeros_like(t) for t in flat[1:])))
        below = {0: grad}
        for layer in reversed(range(plan.field.num_hops)):
            above, below = below, {}
            vectors = {}
            if layer > 0:
                vectors = {hop: own.code.dequantize() for hop, own in layers[layer - 1].items()}
            for hop, dv in above.items():
                ends = walk.ends(layer, hop, vectors)
                dz = layers[layer][hop].activation_backward(dv)
                if layer == 0:
                    walk.backward_table(grads, ends, dz, hop)
                    continue
                down = walk.backward_hop(grads, ends, dz, layer, hop)
                for end, rows in zip((hop, hop + 1), down, strict=True):
                    if rows is not None:
                        below[end] = below[end].add_(rows) if end in below else rows
        return None, None, None, grads.entities, *grads.attention, *grads.weights


class _Walk(NamedTuple):
    """One pass over the layers; `dz` (n, d) is the gradient of a linear layer's output."""

    plan: _Plan
    tensors: _Tensors
    hops: list[Tensor]  # entities of each hop

    @classmethod
    def of(cls, plan: _Plan, flat: tuple[Tensor, ...]) -> _Walk:
        tensors = _Tensors.of(plan, flat)
        return cls(plan, tensors, plan.field.entities(tensors.items))

    def ends(self, layer: int, hop: int, vectors: dict[int, Tensor]) -> _Ends:
        """Return the ends: rows of the embedding table in the first layer, later on outputs.

        `vectors` has the outputs (N * K^hop, d) of the layer below, by hop.
        """
        reads_ego, p = self.plan.aggregator != "neighbor", self.tensors.attention[hop]
        if layer == 0:
            table = self.tensors.entities
            ego = table.index_select(0, self.hops[hop]) if reads_ego else None
            return _Ends(ego, table, self.hops[hop + 1], p)
        return _Ends(vectors[hop] if reads_ego else None, vectors[hop + 1], None, p)

    def backward_table(self, grads: _Tensors, ends: _Ends, dz: Tensor, hop: int) -> None:
        """Go back through the first layer, whose ends are rows of the table; add all gradients."""
        size = self.plan.field.sample_size
        block = EDGE_BLOCK if dz.device.type == "cpu" else DEVICE_EDGE_BLOCK
        step = max(1, block // size)
        for start in range(0, len(dz), step):
            rows, edges = slice(start, start + step), slice(start * size, (start + step) * size)
            own = ends.block(rows, edges)
            d_ego, d_side = self._backward_linear(grads, own, dz[rows], 0)
            d_share = ops.spmm_backward_(grads.entities, *own.matrix(), own.table, d_side)
            grads.attention[hop][rows].add_(d_share.view(-1, size), alpha=1 / size)
            if d_ego is not None:
                add_rows_(grads.entities, self.hops[hop][rows], d_ego)

    def backward_hop(
        self, grads: _Tensors, ends: _Ends, dz: Tensor, layer: int, hop: int
    ) -> tuple[Tensor | None, Tensor]:
        """Return the gradients (n, d), (n * K, d) of the ends, outputs; add those of p, W, b."""
        p, size = ends.attention, self.plan.field.sample_size
        d_ego, d_side = self._backward_linear(grads, ends, dz, layer)
        neighbors = ends.table.view(*p.shape, -1)  # (n, K, d)
        grads.attention[hop].add_((neighbors @ d_side[:, :, None]).squeeze(2), alpha=1 / size)
        share = p / size
        return d_ego, torch.mul(share[:, :, None], d_side[:, None]).flatten(0, 1)

    def _backward_linear(
        self, grads: _Tensors, ends: _Ends, dz: Tensor, layer: int
    ) -> tuple[Tensor | None, Tensor]:
        """Return the gradients (n, d) of v and s; add those of W and b."""
        aggregator, (grad_weight, grad_bias) = self.plan.aggregator, grads.linear(layer)
        grad_weight.addmm_(dz.t(), ends.mixed(aggregator))
        grad_bias.add_(dz.sum(0))
        d_mixed = dz @ self.tensors.linear(layer)[0]
        if aggregator == "concat":
            d_ego, d_side = d_mixed.chunk(2, dim=1)
            return d_ego, d_side
        return (d_mixed if aggregator == "sum" else None), d_mixed


class _Ends(NamedTuple):
    """Entities of a hop and their neighbours: the ends of the edges that a layer follows."""

    ego: Tensor | None  # (n, d); None if it is not read
    table: Tensor  # (M, d), in which the neighbours are
    rows: Tensor | None  # (n * K,) int32 rows of the neighbours; None: 0, 1, 2, ...
    attention: Tensor  # (n, K)

    def block(self, rows: slice, edges: slice) -> _Ends:
        """Return some of the entities, if the neighbours have numbers."""
        ego = None if self.ego is None else self.ego[rows]
        neighbors = None if self.rows is None else self.rows[edges]
        return _Ends(ego, self.table, neighbors, self.attention[rows])

    def mixed(self, aggregator: str) -> Tensor:  # (n, d) or (n, 2 d)
        """Return c(v, s), the linear layer's input."""
        side = ops.spmm(*self.matrix(), self.table)
        if self.ego is None:
            return side
        return side.add_(self.ego) if aggregator == "sum" else torch.cat([self.ego, side], 1)

    def matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the CSR matrix that mixes the neighbours: row pointers, columns and values."""
        num_rows, size = self.attention.shape
        num_edges, device = num_rows * size, self.table.device
        crow = torch.arange(0, num_edges + 1, size, dtype=torch.int32, device=device)
        rows = self.rows
        if rows is None:
            rows = torch.arange(num_edges, dtype=torch.int32, device=device)
        return crow, rows, self.attention.reshape(-1) / size


class _SavedOutput(NamedTuple):
    """What is saved of an output: its codes and signs, or codes of tanh's derivative."""

    code: Quantized
    mask: Tensor | None  # (n, ceil(d / 8)) uint8; None in the last layer

    def activation_backward(self, grad: Tensor) -> Tensor:
        """Return the gradient (n, d) of the activation's input."""
        if self.mask is None:
            return self.code.dequantize().mul_(grad)
        return ops.leaky_relu_backward(grad, self.mask, negative_slope=0.0)


def _activate_(z: Tensor, plan: _Plan, layer: int) -> tuple[Tensor, ...]:
    """Return the output, in the memory of z; what to save codes of; signs, in a hidden layer."""
    if layer == plan.field.num_hops - 1:
        output = z.tanh_()
        return output, output.new_ones(()).addcmul(output, output, value=-1)
    output = z.relu_()
    return output, output, ops.sign_mask(output)


def _read(
    plan: _Plan, saved: tuple[Tensor, ...], layouts: list[Layout]
) -> tuple[tuple[Tensor, ...], list[dict[int, _SavedOutput]]]:
    """Return the inputs, and what was saved of each layer by hop."""
    num_inputs = 2 + 3 * plan.field.num_hops
    tensors, layout = iter(saved[num_inputs:]), iter(layouts)
    layers: list[dict[int, _SavedOutput]] = []
    for layer in range(plan.field.num_hops):
        layers.append({})
        for hop in plan.hops(layer):
            code = Quantized.unflatten(tensors, next(layout))
            mask = next(tensors) if layer < plan.field.num_hops - 1 else None
            layers[layer][hop] = _SavedOutput(code, mask)
    return saved[:num_inputs], layers
