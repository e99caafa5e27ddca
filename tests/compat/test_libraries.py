"""Stock models run on current libraries, and compute what they computed on the old ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_tinykg.compat import libraries
from recbole_tinykg.quick_start import prepare


def test_apply_twice_patches_once():
    libraries.apply()
    from recbole.model.knowledge_aware_recommender.kgat import KGAT

    patched = KGAT.__init__, KGAT.init_graph, sp.dok_matrix._update
    libraries.apply()
    assert (KGAT.__init__, KGAT.init_graph, sp.dok_matrix._update) == patched


def test_torch_load_stays_safe():
    load = torch.load
    libraries.apply()
    assert torch.load is load


def test_numpy_has_the_aliases_that_recbole_reads():
    libraries.apply()
    assert (np.float_, np.complex_, np.unicode_) == (np.float64, np.complex128, np.str_)


def test_dok_update_fills_the_matrix():
    libraries.apply()
    matrix = sp.dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 2): 1, (1, 0): 2})
    assert matrix.tocoo().toarray().tolist() == [[0, 0, 1], [2, 0, 0]]


def dense_attention(ckg: sp.coo_matrix, num_relations: int) -> np.ndarray:
    """KGAT's first attention by its definition: D⁻¹A of every relation, edge by edge, summed."""
    total = np.zeros(ckg.shape)
    for relation in range(1, num_relations):
        adjacency = np.zeros(ckg.shape)
        for head, tail, kind in zip(ckg.row, ckg.col, ckg.data, strict=True):
            adjacency[head, tail] += kind == relation
        degree = adjacency.sum(1, keepdims=True)
        total += adjacency / np.where(degree == 0, 1, degree)
    return total


@pytest.mark.parametrize("reverse", [False, True])
def test_kgat_starts_from_the_attention_of_its_definition(tiny, reverse):
    experiment = prepare("KGAT", "tiny", config_dict={**tiny, "kg_reverse_r": reverse})
    ckg = experiment.train_data._dataset.ckg_graph(form="coo", value_field="relation_id")
    expected = dense_attention(ckg, experiment.model.n_relations)
    assert expected.max() > 1  # parallel edges of several relations add up
    actual = experiment.model.A_in.to_dense().double().numpy()
    # each entry is one float64 sum of at most a few quotients, rounded to float32
    np.testing.assert_allclose(actual, expected, rtol=2 * np.finfo(np.float32).eps)


def test_scatter_mean_averages_rows_by_index():
    src = torch.arange(8.0, dtype=torch.float64).view(4, 2).requires_grad_()
    index = torch.tensor([2, 0, 2, 2])
    mean = libraries.scatter_mean(src=src, index=index, dim_size=4, dim=0)
    assert mean.tolist() == [[2, 3], [0, 0], [10 / 3, 13 / 3], [0, 0]]
    assert torch.autograd.gradcheck(lambda s: libraries.scatter_mean(s, index, 0, 4), src)


def test_scatter_softmax_normalises_rows_by_index():
    generator = torch.Generator().manual_seed(0)
    src = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    src[0] += 1000  # overflows unless the largest value is taken off first
    index = torch.tensor([1, 1, 4, 1, 4])
    expected = src.clone()
    for group in (1, 4):
        expected[index == group] = src[index == group].softmax(0)
    torch.testing.assert_close(libraries.scatter_softmax(src, index, 0), expected)
    src[0] -= 1000
    src.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: libraries.scatter_softmax(s, index, 0), src)


@pytest.mark.parametrize(
    ("name", "parameters"), [("KGIN", {"n_factors": 2}), ("MCCLK", {"n_hops": 1, "k": 2})]
)
def test_models_over_torch_scatter_train(tiny, name, parameters):
    experiment = prepare(name, "tiny", config_dict={**tiny, "epochs": 1, **parameters})
    score, _ = experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=False)
    assert np.isfinite(score)


@pytest.mark.skipif(
    libraries.importlib.util.find_spec("torch_scatter") is not None, reason="it is installed"
)
def test_nobody_else_finds_torch_scatter(tiny):
    prepare("KGIN", "tiny", config_dict=tiny)
    with pytest.raises(ImportError):
        import torch_scatter  # noqa: F401
