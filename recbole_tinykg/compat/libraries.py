"""What lets RecBole 1.2.1's own models run on current NumPy, SciPy and PyTorch.

RecBole's last release predates NumPy 2, SciPy 1.14 and PyTorch 2.6, and some of its models import
DGL or torch_scatter. Each shim repairs one break, is applied once and only where the break exists,
and computes the same numbers as what it replaces:

* every `Config`: NumPy 2 removed `np.float_`, `np.complex_`, `np.unicode_`; they are put back.
* KGAT: DGL 1.0 removed the functions that it calls, and there is no older DGL for Python 3.11; its
  first attention matrix comes from SciPy.
* KGIN, MCCLK and others: SciPy 1.14 removed `dok_matrix._update`; ours updates the matrix's dict.
* KGIN, MCCLK without torch_scatter: `scatter_mean` and `scatter_softmax` in plain torch, which
  only their aggregators see, and only while they run.
* all models: importing RecBole's SINE switches autograd's anomaly mode on for the whole process;
  `anomaly_mode_kept` leaves the mode as it was.

`torch.load` stays as it is: our checkpoints load under its safe default, and checkpoints that
RecBole pickled are opened only by `convert`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


@functools.cache
def apply() -> None:
    """Apply every shim that this installation needs; calling it again does nothing."""
    aliases = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}
    for name in aliases.keys() - vars(np).keys():
        setattr(np, name, aliases[name])
    if not hasattr(sp.dok_matrix, "_update"):  # fills a matrix without index checks
        sp.dok_matrix._update = lambda matrix, entries: matrix._dict.update(entries)
    with anomaly_mode_kept():
        _free_kgat_of_dgl()
        if importlib.util.find_spec("torch_scatter") is None:
            _lend_scatter("recbole.model.knowledge_aware_recommender.kgin")
            _lend_scatter("recbole.model.knowledge_aware_recommender.mcclk")


@contextmanager
def anomaly_mode_kept() -> Iterator[None]:
    """Put autograd's anomaly mode back after the block: importing SINE switches it on."""
    enabled, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(enabled, check_nan)


class _WithoutDGL:
    """The data set as KGAT sees it: the graph that it asks of DGL is a SciPy matrix."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def ckg_graph(self, form: str = "coo", value_field: str | None = None) -> Any:
        return self._dataset.ckg_graph("coo" if form == "dgl" else form, value_field)


def _free_kgat_of_dgl() -> None:
    from recbole.model.knowledge_aware_recommender.kgat import KGAT

    original_init = KGAT.__init__

    @functools.wraps(original_init)
    def init(self: Any, config: Any, dataset: Any) -> None:
        original_init(self, config, _WithoutDGL(dataset))

    KGAT.__init__ = init
    KGAT.init_graph = _init_graph


def _init_graph(self: Any) -> Tensor:  # sparse COO, (users + entities, users + entities)
    """Return KGAT's first attention: row-normalised adjacency matrices, summed over relations."""
    ckg, size = self.ckg, tuple(self.matrix_size)
    adjacency = sum(
        _row_normalised(ckg.row[ckg.data == relation], ckg.col[ckg.data == relation], size)
        for relation in range(1, self.n_relations)
    ).tocoo()
    indices = torch.from_numpy(np.stack([adjacency.row, adjacency.col]).astype(np.int64))
    values = torch.from_numpy(adjacency.data).float()
    return torch.sparse_coo_tensor(indices, values, self.matrix_size, check_invariants=False).to(
        self.device
    )


def _row_normalised(row: np.ndarray, col: np.ndarray, size: tuple[int, ...]) -> Any:
    """Return D⁻¹A of one relation in float64; each of several parallel edges counts in A and D."""
    edges = sp.coo_matrix((np.ones(len(row)), (row, col)), shape=size)
    with np.errstate(divide="ignore"):
        inverse_degree = np.power(np.asarray(edges.sum(1)), -1.0).flatten()
    inverse_degree[np.isinf(inverse_degree)] = 0.0
    return sp.diags(inverse_degree).dot(edges)


def scatter_mean(src: Tensor, index: Tensor, dim: int, dim_size: int) -> Tensor:  # (dim_size, D)
    """Average the rows of `src` (E, D) that share an `index` (E,); 0 where there are none."""
    assert dim == 0, "RecBole aggregates along rows only"
    total = src.new_zeros(dim_size, *src.shape[1:]).index_add_(0, index, src)
    count = torch.bincount(index, minlength=dim_size).clamp_(min=1).to(src.dtype)
    return total / count.view(-1, *[1] * (src.dim() - 1))


def scatter_softmax(src: Tensor, index: Tensor, dim: int) -> Tensor:  # (E, D)
    """Take the softmax over the rows of `src` (E, D) that share an `index` (E,), by column."""
    assert dim == 0, "RecBole normalises along rows only"
    num_groups = int(index.max()) + 1 if index.numel() else 0
    rows = index.view(-1, *[1] * (src.dim() - 1)).expand_as(src)
    peak = src.new_full((num_groups, *src.shape[1:]), -torch.inf)
    peak.scatter_reduce_(0, rows, src.detach(), "amax")
    weight = (src - peak[index]).exp()
    total = weight.new_zeros(peak.shape).index_add(0, index, weight)
    return weight / total[index]


def _lend_scatter(module_name: str) -> None:
    """Let the aggregator of a RecBole module find `torch_scatter`, and no other code."""
    aggregator = importlib.import_module(module_name).Aggregator
    original_forward: Callable[..., Any] = aggregator.forward
    stand_in = ModuleType("torch_scatter", "The two functions RecBole's aggregators import.")
    vars(stand_in).update(scatter_mean=scatter_mean, scatter_softmax=scatter_softmax)

    @functools.wraps(original_forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        sys.modules["torch_scatter"] = stand_in
        try:
            return original_forward(self, *args, **kwargs)
        finally:
            del sys.modules["torch_scatter"]

    aggregator.forward = forward
