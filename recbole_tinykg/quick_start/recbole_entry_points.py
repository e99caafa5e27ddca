"""Makes RecBole's own entry points accept the twins.

RecBole finds a model by its file name under `recbole.model`, its trainer by the name
`<Model>Trainer` in `recbole.trainer` (a model without one is silently trained as a plain knowledge
model, and KGAT's attention is then never refreshed), and its parameters in its own `properties`
folder. So each twin is entered under those names, and RecBole's `Config` reads our properties for
twins and checks our keys. `data_preparation` builds our loaders for twins.

`recbole.quick_start` imports Ray, so it is never imported from here: its `load_data_and_model` is
wrapped when other code imports it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import recbole.data
import recbole.data.utils
import recbole.trainer
from recbole.config import Config as RecBoleConfig

from recbole_tinykg import checkpoint, compat, config, trainer
from recbole_tinykg.config import own_keys
from recbole_tinykg.data import loaders
from recbole_tinykg.errors import CheckpointError
from recbole_tinykg.model import MODELS, get_model, is_tiny
from recbole_tinykg.quick_start.experiment import in_recboles_order, restore_state

_KNOWLEDGE_MODELS = "recbole.model.knowledge_aware_recommender"
_QUICK_START = "recbole.quick_start.quick_start"


@functools.cache
def register() -> None:
    """Make RecBole's own functions accept the twins; calling it again does nothing.

    From then on RecBole's `Config`, `get_model`, `get_trainer` and `run_recbole` take names
    such as `TinyKGAT`, and its `load_data_and_model` takes our checkpoints. In a script that uses
    RecBole's functions, import them after this call.
    """
    compat.apply()
    package = importlib.import_module(_KNOWLEDGE_MODELS)
    for name, module_name in MODELS.items():
        twin = get_model(name)
        sys.modules[f"{_KNOWLEDGE_MODELS}.{name.lower()}"] = sys.modules[module_name]
        setattr(package, name, twin)
        setattr(recbole.trainer, f"{name}Trainer", trainer.trainer_class(twin))
    for module in (recbole.data, recbole.data.utils):
        module.data_preparation = loaders.data_preparation
    _wrap_config()
    if _QUICK_START in sys.modules:
        _wrap_quick_start(sys.modules[_QUICK_START])
    else:
        sys.meta_path.insert(0, _QuickStartFinder())


def _wrap_config() -> None:
    load, set_defaults = (
        RecBoleConfig._load_internal_config_dict,
        RecBoleConfig._set_default_parameters,
    )

    @functools.wraps(load)
    def load_internal_config_dict(self: Any, model: str, model_class: type, dataset: str) -> None:
        if isinstance(self, config.Config):
            load(self, model, model_class, dataset)
        else:
            bound = functools.partial(load, self)
            config.load_properties(self, bound, model, model_class, dataset)

    @functools.wraps(set_defaults)
    def set_default_parameters(self: Any) -> None:
        if not isinstance(self, config.Config):
            check = own_keys.finish if is_tiny(self.model_class) else own_keys.refuse_saves
            check(self)
        set_defaults(self)

    RecBoleConfig._load_internal_config_dict = load_internal_config_dict
    RecBoleConfig._set_default_parameters = set_default_parameters
    RecBoleConfig.to_plain = config.plain_parameters


def _wrap_quick_start(module: ModuleType) -> None:
    """Make RecBole's `load_data_and_model` restore our checkpoints too."""
    load_recboles = module.load_data_and_model

    @functools.wraps(load_recboles)
    def load_data_and_model(model_file: str) -> Any:
        try:
            state = checkpoint.load(model_file)
        except CheckpointError:
            return load_recboles(model_file)
        return in_recboles_order(restore_state(state))

    for name in (_QUICK_START, "recbole.quick_start"):
        if getattr(sys.modules.get(name), "load_data_and_model", None) is load_recboles:
            setattr(sys.modules[name], "load_data_and_model", load_data_and_model)  # noqa: B010


class _QuickStartFinder(MetaPathFinder):
    """Finds `recbole.quick_start.quick_start` as usual, and wraps it once it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _QUICK_START:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run_module(module)
                _wrap_quick_start(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
