"""How embedding tables are read and updated; the place for tables larger than the device's memory.

* `shared_table`: all lookups of a table in one step add to one gradient map;
* `table_embedding`: an `nn.Embedding` whose lookups do.
"""

from recbole_tinykg.embedding.shared_table import SharedTable
from recbole_tinykg.embedding.table_embedding import TableEmbedding, shared_gradients

__all__ = ["SharedTable", "TableEmbedding", "shared_gradients"]
