r"""Reading the ripple memories for a batch of items (RippleNet, equations 4-7).

With keys :math:`k = R h` and tails t of a user's facts, an item's vector v changes hop by hop,

.. math:: p = \mathrm{softmax}_m(v^\top k_m), \quad o = \sum_m p_m t_m, \quad
          v \leftarrow W (v + o),

and its score is :math:`v^\top \sum_h o_h` with the last v. The sums over memory slots are sparse
products: a row of the batch is a row of n_memory weights over pairs or entities. Embeddings of
slots exist only in blocks of `ROW_BLOCK` rows.

This is the arithmetic of `loss`, forward and backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_tinykg import ops
from recbole_tinykg.graph.ripple_memories import Memories

ROW_BLOCK = 256
"""Rows of a batch whose memory is gathered at a time: 256 x 16 x 64 floats fit in a cache."""

DEVICE_ROW_BLOCK = 16 * ROW_BLOCK
"""The same on a GPU, which a block has to keep busy: 4096 x 16 x 64 floats are 17 MB."""


class RippleWeights(NamedTuple):
    """RippleNet's parameters."""

    entities: Tensor  # (n_entities, d)
    matrices: Tensor  # (n_relations, d * d)
    transform: Tensor  # (d, d)


class Read(NamedTuple):
    """Results of reading; rows in the order of `Memories`."""

    probabilities: Tensor  # (B, n_hop, n_memory)
    inputs: list[Tensor]  # (B, d) v of each hop, and the last v
    answers: list[Tensor]  # (B, d) o of each hop

    def answer(self) -> Tensor:
        """Return the sum (B, d) of the hops' answers."""
        return torch.stack(self.answers).sum(0)

    def scores(self) -> Tensor:
        """Return the score (B,) of each row."""
        return (self.inputs[-1] * self.answer()).sum(1)


def read_memories(
    memories: Memories,
    items: Tensor,  # (B, d)
    keys: Tensor,  # (P, d)
    weights: RippleWeights,
    probabilities: Tensor | None = None,  # (B, n_hop, n_memory), if they are known
) -> Read:
    """Read all hops for every row of the batch."""
    _, num_hops, num_memory = memories.slots.shape
    known = probabilities is not None
    if probabilities is None:
        probabilities = items.new_empty(len(items), num_hops, num_memory)
    inputs, answers = [items], []
    for hop in range(num_hops):
        weight = probabilities[:, hop]
        if not known:
            logits = slot_products(keys, memories.pairs_of(hop), inputs[-1])
            weight.copy_(torch.softmax(logits, dim=1))
        answers.append(weighted_sum(weight, memories.tails_of(hop), weights.entities))
        inputs.append((inputs[-1] + answers[-1]) @ weights.transform.t())
    return Read(probabilities, inputs, answers)


class ReadGradients(NamedTuple):
    """Gradients of what was read, rows in the order of `Memories`."""

    items: Tensor  # (B, d)
    answers: Tensor  # (B, n_hop, d)
    logits: Tensor  # (B, n_hop, n_memory)


def read_memories_backward(
    grad_transform: Tensor,  # (d, d), added to
    grad_output: Tensor,  # (B, d) of the last v
    grad_answer: Tensor,  # (B, d) of the sum of answers
    read: Read,
    memories: Memories,
    keys: Tensor,  # (P, d)
    weights: RippleWeights,
) -> ReadGradients:
    """Return the gradients of items, answers and logits; add to that of the transform."""
    num_hops, dim = len(read.answers), keys.shape[1]
    answers = keys.new_empty(len(grad_output), num_hops, dim)
    logits = torch.empty_like(read.probabilities)
    grad = grad_output
    for hop in reversed(range(num_hops)):
        grad_transform.addmm_(grad.t(), read.inputs[hop] + read.answers[hop])
        grad = grad @ weights.transform
        torch.add(grad, grad_answer, out=answers[:, hop])
        p = read.probabilities[:, hop]
        slope = slot_products(weights.entities, memories.tails_of(hop), answers[:, hop]).mul_(p)
        torch.sub(slope, slope.sum(1, keepdim=True) * p, out=logits[:, hop])
        grad += weighted_sum(logits[:, hop], memories.pairs_of(hop), keys)
    return ReadGradients(grad, answers, logits)


def slot_products(
    table: Tensor,  # (N, d)
    index: Tensor,  # (B, n_memory) int32
    vectors: Tensor,  # (B, d)
) -> Tensor:
    """Return inner products (B, n_memory) of a table's rows `index` and a vector per batch row."""
    out = vectors.new_empty(index.shape)
    size = ROW_BLOCK if index.device.type == "cpu" else DEVICE_ROW_BLOCK
    for start in range(0, len(index), size):
        block = slice(start, start + size)
        rows = table.index_select(0, index[block].reshape(-1)).view(*index[block].shape, -1)
        torch.sum(rows.mul_(vectors[block, None]), dim=2, out=out[block])  # bmm is slower
    return out


def weighted_sum(
    weights: Tensor,  # (B, n_memory)
    index: Tensor,  # (B, n_memory) int32
    table: Tensor,  # (N, d)
) -> Tensor:
    """Return the sum (B, d) of a table's rows `index` times their weights."""
    num_rows, num_memory = index.shape
    start = torch.arange(num_rows + 1, dtype=torch.int32, device=index.device) * num_memory
    return ops.spmm(start, index.reshape(-1), weights.reshape(-1), table)
