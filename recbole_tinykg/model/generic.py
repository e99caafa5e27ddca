"""Twins by `compressed_saves`: RecBole's own class, whose losses run in a block that saves codes.

TinyMCCLK, TinyCKE, TinyCFKG, TinyKTUP and TinyMKR compute what MCCLK, CKE, CFKG, KTUP and MKR
compute, with RecBole's code: parameters, losses, scores and the random numbers of training are
stock's. What autograd saves is packed by `saved_tensors.compressed_saves`. Unlike those of the
hand-written twins, their gradients are not proved unbiased; `saved_tensors.measure_bias` measures
the bias.

Fixed, because it does not touch training: evaluation draws no random numbers, and drops its cache
when training goes on or other weights are loaded. Not fixed, because it would: KTUP normalises its
initial user, preference and entity embeddings but, by a misspelt attribute, not its item
embeddings.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tinykg import compat
from recbole_tinykg.embedding import TableEmbedding, shared_gradients
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.functional import relation_matmul
from recbole_tinykg.model.checks import (
    check_choice,
    check_flag,
    check_positive,
    check_rate,
    check_weight,
    is_weight,
)
from recbole_tinykg.model.twin import Twin
from recbole_tinykg.quantization import Sites
from recbole_tinykg.saved_tensors import Recording, compressed_saves

CFKG: Any = compat.get_stock_model("CFKG")
CKE: Any = compat.get_stock_model("CKE")
KTUP: Any = compat.get_stock_model("KTUP")
MCCLK: Any = compat.get_stock_model("MCCLK")
MKR: Any = compat.get_stock_model("MKR")

LOSSES = ("calculate_loss", "calculate_kg_loss", "calculate_rs_loss")
"""What RecBole's trainers call for a loss."""


class GenericTwin(Twin):
    """Base of the twins whose other base is their stock model.

    Attributes:
        recordings: What the first step of each loss decided about saved tensors.
    """

    chooses_bits = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Run the losses that the stock model has in `compressed_saves`."""
        super().__init_subclass__(**kwargs)
        if GenericTwin in cls.__bases__:
            for name in set(LOSSES) & set(dir(cls)):
                setattr(cls, name, _compressed(getattr(cls, name), name))

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the stock model, then give its tables one gradient map each."""
        super().__init__(config, dataset)
        self.recordings = {name: Recording() for name in LOSSES}
        for name, module in list(self.named_children()):
            if TableEmbedding.fits(module):
                setattr(self, name, TableEmbedding(module))

    @classmethod
    def name_sites(cls, config: Any) -> Sites:
        """Return one site: the block divides its noise among the tensors itself."""
        sites = Sites()
        sites.add("block", stored=False)
        return sites

    def _forget(self) -> None:
        """Drop the cache, and what the stock model's evaluation has cached."""
        super()._forget()
        self._drop_restored()

    def _drop_restored(self) -> None:
        for name in [name for name in vars(self) if name.startswith("restore_")]:
            setattr(self, name, None)


def _compressed(loss: Callable[[Any, Any], Any], name: str) -> Callable[[Any, Any], Any]:
    @functools.wraps(loss)
    def run(self: GenericTwin, interaction: Any) -> Any:
        quantizer = self.site_table.quantizer("block")
        with (
            shared_gradients(self),
            compressed_saves(
                self,
                quantizer.bits,
                rounding=quantizer.rounding,
                streams=self.streams,
                resident=interaction.interaction.values(),
                recording=self.recordings[name],
            ),
        ):
            losses = loss(self, interaction)
        for attribute, value in list(vars(self).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                delattr(self, attribute)  # a result that the stock model stored, with its graph
        return losses

    return run


class TinyCFKG(GenericTwin, CFKG):
    """CFKG's twin."""

    stock_name = "CFKG"

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a CFKG."""
        check_positive(config, "embedding_size")
        check_choice(config, "loss_function", ("inner_product", "transe"))
        check_weight(config, "margin")


class TinyCKE(GenericTwin, CKE):
    """CKE's twin."""

    stock_name = "CKE"

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a CKE."""
        check_positive(config, "embedding_size", "kg_embedding_size")
        weights = config["reg_weights"]
        if not isinstance(weights, list) or len(weights) != 2 or not all(map(is_weight, weights)):
            raise ConfigurationError(
                f"reg_weights must be two numbers of 0 or more, such as [1e-2, 1e-2]; "
                f"got {weights!r}"
            )

    def _get_kg_embedding(
        self, h: Tensor, r: Tensor, pos_t: Tensor, neg_t: Tensor
    ) -> tuple[Tensor | None, ...]:  # (B, D') each
        """Return unit heads, relations, tails, corrupted tails; triples in order of relation."""
        order = torch.argsort(r)
        entity = torch.stack([h, pos_t, neg_t], dim=1)[order].view(-1)
        segments = torch.bincount(r, minlength=self.n_relations).mul_(3).tolist()
        matrices = self.trans_w.weight.view(-1, self.embedding_size, self.kg_embedding_size)
        projected = relation_matmul(self.entity_embedding(entity), segments, matrices)
        head, tail, corrupted = (
            F.normalize(role, dim=1) for role in projected.view(len(r), 3, -1).unbind(1)
        )
        return head, F.normalize(self.relation_embedding(r[order]), dim=1), tail, corrupted, None


class TinyKTUP(GenericTwin, KTUP):
    """KTUP's twin; trains items and knowledge in turn with RecBole's `KGTrainer`."""

    stock_name = "KTUP"

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe a KTUP."""
        check_positive(config, "embedding_size", "train_rec_step", "train_kg_step")
        check_weight(config, "margin", "kg_weight", "align_weight")
        check_flag(config, "use_st_gumbel", "L1_flag")

    def st_gumbel_softmax(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """Return a preference for each pair: a sample in training, the likeliest in evaluation."""
        if self.training:
            return super().st_gumbel_softmax(logits, temperature)
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


class TinyMCCLK(GenericTwin, MCCLK):
    """MCCLK's twin; evaluates on the whole graph, where MCCLK takes a sample of its edges."""

    stock_name = "MCCLK"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.node_dropout_rate = config["node_dropout_rate"]

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe an MCCLK."""
        check_positive(config, "embedding_size", "n_hops", "lightgcn_layer", "item_agg_layer", "k")
        check_rate(config, "node_dropout_rate", "mess_dropout_rate")
        check_weight(config, "reg_weight", "alpha", "beta", "lambda_coeff", "temperature")
        if config["temperature"] == 0:
            raise ConfigurationError("temperature must be above 0; got 0")
        check_choice(config, "loss_type", ("BPR", "bpr", "BCE", "bce"))
        check_flag(config, "build_graph_separately")

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return the stock model's scores; its cache is dropped when weights have changed."""
        self._cached(self._drop_restored)
        return super().full_sort_predict(interaction)

    def train(self, mode: bool = True) -> Self:
        """Switch between training, with sampled edges, and evaluation with all of them."""
        self.gcn.node_dropout_rate = self.node_dropout_rate if mode else 0.0
        return super().train(mode)


class TinyMKR(GenericTwin, MKR):
    """MKR's twin; trains with RecBole's `MKRTrainer`."""

    stock_name = "MKR"

    def __init__(self, config: Any, dataset: Any) -> None:
        """Build the model, then replace its cross & compress units by `CrossCompress`."""
        super().__init__(config, dataset)
        units = ((name, CrossCompress(unit)) for name, unit in self.cc_unit.named_children())
        self.cc_unit: nn.Module = nn.Sequential(OrderedDict(units))

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raise ConfigurationError for values that cannot describe an MKR."""
        check_positive(config, "embedding_size", "low_layers_num", "high_layers_num")
        check_positive(config, "kge_interval")
        check_rate(config, "dropout_prob")
        check_weight(config, "reg_weight")
        check_flag(config, "use_inner_product")


class CrossCompress(nn.Module):
    r"""MKR's cross & compress unit, without the product of every row with itself.

    The unit compresses :math:`C = v e^\top` of each row, D x D floats, to
    :math:`v' = C w_{vv} + C^\top w_{ev} + b` and likewise e'. But :math:`C w = v (e \cdot w)`:

    .. math::
        v' = v (e \cdot w_{vv}) + e (v \cdot w_{ev}) + b_{vv} + b_{ev}, \quad
        e' = v (e \cdot w_{ve}) + e (v \cdot w_{ee}) + b_{ve} + b_{ee}

    Args:
        unit: The module with the linear layers `fc_vv`, `fc_ev`, `fc_ve`, `fc_ee`.
    """

    fc_vv: nn.Linear
    fc_ev: nn.Linear
    fc_ve: nn.Linear
    fc_ee: nn.Linear

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        for name in ("fc_vv", "fc_ev", "fc_ve", "fc_ee"):
            self.add_module(name, unit.get_submodule(name))

    def forward(self, pair: list[Tensor]) -> tuple[Tensor, Tensor]:  # (N, D) each
        """Return both outputs, v' and e', of a pair [v, e]."""
        return (
            self._compress(pair, self.fc_vv, self.fc_ev),
            self._compress(pair, self.fc_ve, self.fc_ee),
        )

    @staticmethod
    def _compress(pair: list[Tensor], along_v: nn.Linear, along_e: nn.Linear) -> Tensor:  # (N, D)
        v, e = pair
        bias = along_v.bias + along_e.bias
        return v * F.linear(e, along_v.weight) + e * F.linear(v, along_e.weight) + bias
