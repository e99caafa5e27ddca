"""RecBole's own models by their class names."""

from __future__ import annotations

import importlib
import importlib.util

from recbole_tinykg.compat.libraries import anomaly_mode_kept, apply
from recbole_tinykg.errors import ConfigurationError, did_you_mean

_MODEL_PACKAGES = (
    "knowledge_aware_recommender",
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
)
_KNOWLEDGE_MODELS = tuple("CFKG CKE KGAT KGCN KGIN KGNNLS KTUP MCCLK MKR RippleNet".split())


def get_stock_model(name: str) -> type:
    """Return RecBole's own model class, leaving autograd's anomaly mode as it was.

    Args:
        name: Class name as RecBole spells it, such as `KGAT`.

    Raises:
        ConfigurationError: RecBole has no such model.
    """
    apply()
    with anomaly_mode_kept():
        for package in _MODEL_PACKAGES:
            module_name = f"recbole.model.{package}.{name.lower()}"
            if name.isidentifier() and importlib.util.find_spec(module_name) is not None:
                model = getattr(importlib.import_module(module_name), name, None)
                if isinstance(model, type):
                    return model
    raise ConfigurationError(unknown_model_message(name))


def unknown_model_message(name: str, tiny_names: tuple[str, ...] = ()) -> str:
    """Say that a model does not exist, which ones do, and which name was probably meant."""
    known = (*tiny_names, *_KNOWLEDGE_MODELS)
    near = did_you_mean(name, known, ignore_case=True)
    return (
        f"model must be one of {', '.join(known)}, or another RecBole model by its class name; "
        f"got {name!r}{f'; {near}' if near else ''}"
    )
