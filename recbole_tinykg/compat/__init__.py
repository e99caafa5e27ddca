"""What lets RecBole 1.2.1 run on today's libraries, and keeps its side effects away from users.

* `libraries`: shims for NumPy, SciPy, DGL and torch_scatter; RecBole's models by name;
* `side_effects`: RecBole's files put off, its warnings silenced, its errors in our words.
"""

from recbole_tinykg.compat.libraries import apply, get_stock_model, unknown_model_message

__all__ = ["apply", "get_stock_model", "unknown_model_message"]
