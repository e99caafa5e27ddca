"""The twins, one file per RecBole model that they replace, and look-up by class name.

* `kgat`, `kgcn`, `kgnnls`, `kgin`, `ripplenet`: written by hand on compressed functions;
* `generic`: MCCLK, CKE, CFKG, KTUP and MKR, RecBole's own code in `compressed_saves`;
* `twin`: their base; `checks`: of a model's parameters.

A twin is imported when it is looked up, so listing the names costs nothing.
"""

from __future__ import annotations

import importlib

from recbole_tinykg import compat
from recbole_tinykg.errors import ConfigurationError

MODELS = {
    "TinyKGAT": "recbole_tinykg.model.kgat",
    "TinyKGCN": "recbole_tinykg.model.kgcn",
    "TinyKGNNLS": "recbole_tinykg.model.kgnnls",
    "TinyKGIN": "recbole_tinykg.model.kgin",
    "TinyRippleNet": "recbole_tinykg.model.ripplenet",
    "TinyCFKG": "recbole_tinykg.model.generic",
    "TinyCKE": "recbole_tinykg.model.generic",
    "TinyKTUP": "recbole_tinykg.model.generic",
    "TinyMCCLK": "recbole_tinykg.model.generic",
    "TinyMKR": "recbole_tinykg.model.generic",
}
"""Module of each twin by its class name."""


def get_model(name: str) -> type:
    """Return a twin, or one of RecBole's own models, by its class name.

    Raises:
        ConfigurationError: Neither this package nor RecBole has a model of this name.
    """
    if name not in MODELS:
        return get_stock_model(name)
    compat.apply()
    return getattr(importlib.import_module(MODELS[name]), name)


def get_stock_model(name: str) -> type:
    """Return one of RecBole's own models; for an unknown name, the error lists the twins too."""
    try:
        return compat.get_stock_model(name)
    except ConfigurationError:
        raise ConfigurationError(compat.unknown_model_message(name, tuple(MODELS))) from None


def stock_name_of(model_class: type) -> str:
    """Return the name of the RecBole model that a twin replaces; a stock model's own name."""
    return getattr(model_class, "stock_name", model_class.__name__)


def is_tiny(model_class: type) -> bool:
    """Return whether a model class is a twin, that is, names the RecBole model it replaces."""
    return hasattr(model_class, "stock_name")
