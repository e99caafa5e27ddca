"""The first step of each phase, and KGAT's refresh, as RecBole's own trainers take them.

The stock model's trainer decides what an epoch is, which losses it has and which batches they get.
`FirstSteps` is its base class, where a call is a pass over the batches, and takes one batch instead
of all. Epochs follow until every phase has had its turn (KTUP alternates, MKR skips).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from recbole.data.dataloader import KnowledgeBasedDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_tinykg.compat import replaced
from recbole_tinykg.compat.side_effects import recboles_deprecations_ignored
from recbole_tinykg.config import Config
from recbole_tinykg.memory.step_meter import LossFunction
from recbole_tinykg.trainer import TinyTrainer, trainer_class
from recbole_tinykg.trainer.loop import without_unread_triples
from recbole_tinykg.trainer.phases import phase_of

TrainData: TypeAlias = AbstractDataLoader | KnowledgeBasedDataLoader


class FirstSteps(TinyTrainer):
    """Takes the first step of each phase."""

    def take(self, train_data: TrainData) -> None:
        """Take the first step of every phase."""
        self._seen: set[str] = set()
        detects = torch.autograd.set_detect_anomaly(self._detects_anomalies())
        scoring = lend_model(self.config, self.model, train_data)
        refresh = getattr(self.model, "update_attentive_A", None)
        taken = {"update_attentive_A": lambda: self.take_refresh(refresh)} if refresh else {}
        cycle = (self.config["train_rec_step"] or 0) + (self.config["train_kg_step"] or 0)
        with detects, recboles_deprecations_ignored(), replaced(self.model, **taken), scoring:
            for epoch in range(max(1, cycle)):  # until every phase has had its turn
                self._train_epoch(train_data, epoch)

    def take_step(self, phase: str, batches: OneBatch, loss_func: LossFunction) -> None:
        """Take the step of a phase; subclasses say how."""
        raise NotImplementedError

    def take_refresh(self, refresh: Callable[[], None]) -> None:
        """Refresh KGAT's attention, as between epochs; subclasses say how."""
        raise NotImplementedError

    def _train_epoch(
        self,
        train_data: TrainData,
        epoch_idx: int,
        loss_func: LossFunction | None = None,
        show_progress: bool = False,
    ) -> float:
        loss_func = loss_func or self.model.calculate_loss
        phase = phase_of(loss_func)
        if phase not in self._seen:
            self._seen.add(phase)
            with without_unread_triples(self.config, self.model, train_data):
                batch = next(iter(train_data))
            self.take_step(phase, OneBatch([batch]), loss_func)
        return 0.0


@contextmanager
def lend_model(config: Config, model: AbstractRecommender, train_data: TrainData) -> Iterator[None]:
    """Give the loader the model in the block, if it scores candidates for dynamic negatives."""
    if not config["train_neg_sample_args"].get("dynamic", False):
        yield
        return
    loader = getattr(train_data, "general_dataloader", train_data)
    before = getattr(loader, "model", None)
    train_data.get_model(model)
    try:
        yield
    finally:
        loader.model = before


class OneBatch(list[Interaction]):
    """A loader of one batch."""

    state = None


def first_steps(kind: type[FirstSteps], config: Config, model: AbstractRecommender) -> Any:
    """Build the stock model's trainer on a kind of `FirstSteps` in place of `TinyTrainer`.

    Raises:
        ConfigurationError: RecBole trains the model in a loop of its own.
    """
    model_class: type = type(model)
    bases = trainer_class(model_class).__bases__
    own = tuple(kind if base is TinyTrainer else base for base in bases)
    return type(f"{model_class.__name__}Trainer", own, {})(config, model)
