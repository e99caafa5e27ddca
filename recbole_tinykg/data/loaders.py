"""Data loaders of the twins: RecBole's batches, without a Python object per row.

RecBole's loaders turn the row numbers of an epoch into Python numbers, and gather every column of a
batch by a list of them. Here row numbers stay tensors. Order, columns, values and random draws are
those of RecBole's loaders: batches, and the state of every generator after an epoch, are the same
to the bit. Rare cases are left to RecBole: worker processes, repeatable samplers and stored loaders
get its loaders, and negatives chosen by the model are drawn by its methods, inherited here.

Stock models keep RecBole's loaders, because twins are compared with them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import data_preparation as recboles_data_preparation
from recbole.data.dataloader import KnowledgeBasedDataLoader, NegSampleEvalDataLoader
from recbole.data.dataloader.general_dataloader import TrainDataLoader
from recbole.data.dataloader.knowledge_dataloader import KGDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import KGDataLoaderState, set_color
from torch import Tensor

from recbole_tinykg.data.full_sort import FullSortLoader
from recbole_tinykg.data.index_loader import IndexTensors, take
from recbole_tinykg.data.negatives import ItemSampler, TailSampler
from recbole_tinykg.model import is_tiny

_PHASES = ("train", "valid", "test")


def data_preparation(config: Config, dataset: Dataset) -> tuple[Any, Any, Any]:
    """Split a data set and build its loaders, as RecBole's function of this name does.

    Returns:
        Loaders of the training, validation and test split; RecBole's own for a stock model.
    """
    if not _fits(config):
        return recboles_data_preparation(config, dataset)
    splits = dataset.build()
    samplers = _samplers(config, splits)
    triples = TailSampler(
        dataset,
        config["train_neg_sample_args"]["distribution"],
        config["train_neg_sample_args"]["alpha"],
    )
    train = KnowledgeLoader(config, splits[0], samplers[0], triples)
    modes = config["eval_args"]["mode"]
    loaders: list[type] = [
        FullSortLoader if modes[phase] == "full" else NegSampleEvalDataLoader
        for phase in _PHASES[1:]
    ]
    valid, test = (
        loader(config, split, sampler)
        for loader, split, sampler in zip(loaders, splits[1:], samplers[1:], strict=True)
    )
    _log(config)
    return train, valid, test


def _fits(config: Config) -> bool:
    """Check that the model is a twin and that nothing configured is left to RecBole."""
    stored = Path(config["checkpoint_dir"]) / (
        f"{config['dataset']}-for-{config['model']}-dataloader.pth"
    )
    left_to_recbole = (
        config["worker"],
        not config["single_spec"],
        config["repeatable"],
        config["save_dataloaders"],
        config["dataloaders_save_path"],
        config["train_neg_sample_args"]["distribution"] == "none",
        stored.exists(),
    )
    return is_tiny(config.model_class) and not any(left_to_recbole)


def _samplers(config: Config, splits: list[Dataset]) -> list[ItemSampler | None]:
    """Return an item sampler per phase: they share known pairs, each has its distribution."""
    first = config["train_neg_sample_args"]
    base = ItemSampler(list(_PHASES), splits, first["distribution"], first["alpha"])
    samplers = []
    for phase in _PHASES:
        distribution = config[f"{phase}_neg_sample_args"]["distribution"]
        if distribution != base.distribution and distribution != "none":
            base.set_distribution(distribution)
        samplers.append(None if distribution == "none" else base.set_phase(phase))
    return samplers


def _log(config: Config) -> None:
    """Log RecBole's two lines about batches and negatives."""
    for title, *keys in (
        ("Training", "train_batch_size", "train_neg_sample_args"),
        ("Evaluation", "eval_batch_size", "eval_args"),
    ):
        values = " ".join(
            f"{set_color(key, 'cyan')} = {set_color(f'[{config[key]}]', 'yellow')}" for key in keys
        )
        logging.getLogger().info(set_color(f"[{title}]: ", "pink") + values)


class InteractionLoader(IndexTensors, TrainDataLoader):
    """RecBole's `TrainDataLoader`: interactions, each with its negatives."""

    def collate_fn(self, index: Tensor) -> Interaction:  # (B,)
        """Return the batch of the given rows."""
        rows = self._dataset.join(take(self._dataset.inter_feat, index))
        return self._neg_sampling(self.transform(self._dataset, rows))


class TripleLoader(IndexTensors, KGDataLoader):
    """RecBole's `KGDataLoader`: triples, each with a tail that its head is not linked to."""

    def collate_fn(self, index: Tensor) -> Interaction:  # (B,)
        """Return the batch of the given rows."""
        rows = take(self._dataset.kg_feat, index)
        heads = rows[self.hid_field].numpy()
        rows[self.neg_tid_field] = self._sampler.sample_by_entity_ids(heads, self.neg_sample_num)
        return rows


class KnowledgeLoader(KnowledgeBasedDataLoader):
    """RecBole's `KnowledgeBasedDataLoader`: interactions, triples, or both, as its state says."""

    def __init__(
        self, config: Config, dataset: Dataset, sampler: ItemSampler | None, kg_sampler: TailSampler
    ) -> None:
        self.logger = logging.getLogger()
        self.general_dataloader = InteractionLoader(config, dataset, sampler, shuffle=True)
        self.kg_dataloader = TripleLoader(config, dataset, kg_sampler, shuffle=True)
        self.shuffle = False
        self.state: KGDataLoaderState | None = None
        self._dataset = dataset
        self.kg_iter: Iterator[Interaction] | None = None
        self.gen_iter: Iterator[Interaction] | None = None
