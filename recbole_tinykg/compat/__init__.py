"""Lets RecBole 1.2.1 run on today's libraries, and keeps its side effects away from users.

* `libraries`: shims for NumPy, SciPy, DGL and torch_scatter;
* `stock_models`: RecBole's models by name;
* `patching`: attributes replaced for the duration of a block;
* `side_effects`: defers RecBole's files, silences its warnings, rewords its errors.
"""

from recbole_tinykg.compat.libraries import apply
from recbole_tinykg.compat.patching import replaced
from recbole_tinykg.compat.stock_models import get_stock_model, unknown_model_message

__all__ = ["apply", "get_stock_model", "replaced", "unknown_model_message"]
