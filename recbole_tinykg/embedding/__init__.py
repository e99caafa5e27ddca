"""Embedding tables: how they are read, and how the gradients of their rows are gathered.

* `shared_table`: all lookups of a table in one step share one gradient map;
* `table_embedding`: an `nn.Embedding` that reads its table so.
"""

from recbole_tinykg.embedding.shared_table import SharedTable
from recbole_tinykg.embedding.table_embedding import TableEmbedding, shared_gradients

__all__ = ["SharedTable", "TableEmbedding", "shared_gradients"]
