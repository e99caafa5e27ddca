"""An `nn.Embedding` whose lookups in a step share a gradient map (`shared_table`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recbole_tinykg.embedding.shared_table import SharedTable


class TableEmbedding(nn.Embedding):
    """An embedding whose lookups in a `shared_gradients` block have one gradient map.

    Args:
        embedding: The embedding to replace, whose parameter this one takes.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, device="meta")
        self.weight = embedding.weight
        self.table: SharedTable | None = None

    def forward(self, index: Tensor) -> Tensor:  # (*index.shape, D)
        """Return rows of the table."""
        return super().forward(index) if self.table is None else self.table.rows(index)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is a plain embedding: dense gradient, no padding, no maximal norm."""
        return (
            type(module) is nn.Embedding
            and not (module.sparse or module.scale_grad_by_freq)
            and module.max_norm is None
            and module.padding_idx is None
        )


@contextmanager
def shared_gradients(model: nn.Module) -> Iterator[None]:
    """Let each `TableEmbedding` of a model collect the gradients of the block in one map."""
    embeddings = [m for m in model.modules() if isinstance(m, TableEmbedding)]
    for embedding in embeddings:
        if torch.is_grad_enabled() and embedding.weight.requires_grad:
            embedding.table = SharedTable(embedding.weight)
    try:
        yield
    finally:
        for embedding in embeddings:
            embedding.table = None
