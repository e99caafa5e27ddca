"""Train RecBole's knowledge-aware recommenders in a fraction of the memory.

The public names load on first use: importing the package imports neither RecBole nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from recbole_tinykg.commands.compare import compare
    from recbole_tinykg.commands.plan import plan
    from recbole_tinykg.commands.tune import TuneResult, tune
    from recbole_tinykg.quantization import Quantized, Quantizer, quantize
    from recbole_tinykg.quick_start import (
        load_data_and_model,
        prepare,
        register,
        run_recbole_tinykg,
    )
    from recbole_tinykg.saved_tensors import compressed_saves, measure_bias
    from recbole_tinykg.serving import recommend

__all__ = [
    "Quantized",
    "Quantizer",
    "TuneResult",
    "__version__",
    "compare",
    "compressed_saves",
    "load_data_and_model",
    "measure_bias",
    "plan",
    "prepare",
    "quantize",
    "recommend",
    "register",
    "run_recbole_tinykg",
    "tune",
]

_HOMES = {
    "commands.compare": ("compare",),
    "serving": ("recommend",),
    "commands.tune": ("TuneResult", "tune"),
    "commands.plan": ("plan",),
    "quantization": ("Quantized", "Quantizer", "quantize"),
    "quick_start": ("load_data_and_model", "prepare", "register", "run_recbole_tinykg"),
    "saved_tensors": ("compressed_saves", "measure_bias"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
