"""What the suite compares: a stock model, what a user would try with it, its twin at every width.

A variant is a key, a label for people, and either the bits of a twin or a change to the stock
model: a context manager, inside which the model's losses are computed in the variant's way. All
stock variants thus run on one model, and nothing of RecBole's code is copied:

* `checkpoint`: `torch.utils.checkpoint` around a stock model's expensive blocks (`BLOCKS`): a layer
  of KGAT, KGIN or MCCLK, `aggregate` of KGCN and KGNNLS, ...; of RippleNet and CFKG, whose loss
  reads what their blocks leave behind, around the loss;
* `bf16`: `torch.autocast` around the loss;
* `offload`: `save_on_cpu(pin_memory=True)` around the loss; on a GPU only;
* `compressed`: this package's generic `compressed_saves` at 2 bits around the loss;
* `anomaly`: as RecBole ships it, with autograd's anomaly detection; and `skip`: with
  `skip_unread_kg_batches`, which draws other negatives. Not among the default ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from recbole_tinykg.trainer.compressed_loss import CompressedLoss

LOSSES = ("calculate_loss", "calculate_rs_loss", "calculate_kg_loss")
"""What RecBole's trainers call for a loss."""

Loss = Callable[..., Any]
Methods = list[tuple[Any, str]]
"""Objects, and the name of a method of each."""


@dataclass(frozen=True)
class Variant:
    """A row of the tables."""

    key: str
    label: str  # {stock} and {twin} stand for the names
    bits: int | None = None  # of the twin; None: the stock model
    settings: dict[str, Any] = field(default_factory=dict)  # parameters besides the case's
    applied: Callable[[Any], AbstractContextManager[Any]] = lambda model: nullcontext()
    needs_cuda: bool = False
    hidden_saves: bool = False  # some of what is kept does not pass through the meter's hooks

    @property
    def is_stock(self) -> bool:
        """Whether it is the stock model itself or what a user would try with it."""
        return self.bits is None

    @property
    def owns_model(self) -> bool:
        """Whether it needs a model of its own; the others are measured on the stock model."""
        return self.key == "stock" or not self.is_stock or bool(self.settings)


@contextmanager
def replaced(methods: Methods, wrap: Callable[[Loss], Loss]) -> Iterator[None]:
    """Put `wrap(method)` in the place of methods of objects, in a `with` block."""
    with ExitStack() as stack:
        for owner, name in methods:
            method = getattr(owner, name)
            setattr(owner, name, functools.wraps(method)(wrap(method)))
            stack.callback(delattr, owner, name)
        yield


def losses(model: Any) -> Methods:
    """Return the losses that a model has."""
    return [(model, name) for name in LOSSES if hasattr(model, name)]


def around_losses(block: Callable[[], AbstractContextManager[Any]]) -> Callable[[Any], Any]:
    """Return a variant's `applied`: every loss is computed in a block."""

    def wrap(loss: Loss) -> Loss:
        def run(batch: Any) -> Any:
            with block():
                return loss(batch)

        return run

    return lambda model: replaced(losses(model), wrap)


def layers(modules: Iterable[Any]) -> Methods:
    """Return the `forward` of modules."""
    return [(module, "forward") for module in modules]


BLOCKS: dict[str, Callable[[Any], Methods]] = {
    "KGAT": lambda m: [*layers(m.aggregator_layers), (m, "_get_kg_embedding")],
    "KGCN": lambda m: [(m, "aggregate")],
    "KGNNLS": lambda m: [(m, "aggregate"), (m, "label_smoothness_predict")],
    "KGIN": lambda m: layers(m.gcn.convs),
    "CKE": lambda m: [(m, "_get_kg_embedding")],
    "KTUP": lambda m: [(m, "forward"), (m, "calculate_kg_loss")],
    "MKR": lambda m: layers([*m.cc_unit, m.user_mlp, m.tail_mlp, m.kge_mlp, m.kge_pred_mlp]),
    "MCCLK": lambda m: [
        *layers(m.gcn.convs),
        (m.gcn, "build_adj"),
        (m, "local_level_loss"),
        (m, "global_level_loss_1"),
        (m, "global_level_loss_2"),
    ],
}
"""Methods to checkpoint, by stock model; of one that is not here, its losses."""


def checkpointed(model: Any) -> AbstractContextManager[None]:
    """Activation checkpointing: blocks keep their inputs and are computed again in backward."""

    def wrap(block: Loss) -> Loss:
        return lambda *args: checkpoint(block, *args, use_reentrant=False)

    return replaced(BLOCKS.get(type(model).__name__, losses)(model), wrap)


def in_bfloat16(model: Any) -> AbstractContextManager[None]:
    """Automatic mixed precision."""
    device = next(model.parameters()).device.type
    return around_losses(lambda: torch.autocast(device, torch.bfloat16))(model)


def compressed(model: Any) -> AbstractContextManager[None]:
    """Compute the losses in `compressed_saves` at 2 bits, as `--compressed_saves=true` does."""
    settings = {"compress_bits": 2, "compress_rounding": "stochastic", "compress_seed": 2020}
    wrapper = CompressedLoss(settings, model, next(model.parameters()).device)
    return replaced(losses(model), wrapper.wrap)


SKIP = {"skip_unread_kg_batches": True}

VARIANTS = {
    variant.key: variant
    for variant in [
        Variant("stock", "{stock}"),
        Variant("checkpoint", "{stock} + checkpointing", applied=checkpointed, hidden_saves=True),
        Variant("bf16", "{stock} + bf16 autocast", applied=in_bfloat16),
        Variant(
            "offload",
            "{stock} + offload of saves",
            applied=around_losses(lambda: torch.autograd.graph.save_on_cpu(pin_memory=True)),
            needs_cuda=True,
            hidden_saves=True,
        ),
        Variant("compressed", "{stock} + compressed_saves, INT2", applied=compressed),
        Variant(
            "anomaly",
            "{stock} as shipped (anomaly detection)",
            applied=lambda model: torch.autograd.set_detect_anomaly(True),
        ),
        Variant("skip", "{stock}, no unread triples", settings=SKIP),
        *(Variant(f"tiny{bits}", f"{{twin}}, {bits} bits", bits) for bits in (32, 8, 4, 2, 1)),
        Variant("tiny2-skip", "{twin}, 2 bits, no unread triples", 2, settings=SKIP),
    ]
}
DEFAULT = tuple(key for key in VARIANTS if key not in ("anomaly", "skip", "tiny2-skip"))


def choose_variants(keys: Iterable[str], device: torch.device) -> list[Variant]:
    """Return the variants of these keys that the device can run, the stock model first.

    Raises:
        SystemExit: There is no such variant.
    """
    wanted = {"stock", *keys}  # what the others are compared with
    if unknown := wanted - set(VARIANTS):
        raise SystemExit(
            f"--variants must be of {', '.join(VARIANTS)}; got {', '.join(sorted(unknown))}"
        )
    able = [v for v in VARIANTS.values() if device.type == "cuda" or not v.needs_cuda]
    return [variant for variant in able if variant.key in wanted]
