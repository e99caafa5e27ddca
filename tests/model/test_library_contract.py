"""The twins without native kernels: what libraries are given, and that a step stays the same.

There the products are MKL's on a CPU and cuSPARSE's on a GPU, which trust their arguments. Here
every argument is checked, in a step and in the scores of each twin, and the results are held
against those of the native kernels: to rounding of float64 where there are sums of ours, and else
exactly.
"""

from __future__ import annotations

import sys

import pytest
import test_generic
import test_kgat
import test_kgcn
import test_kgin
import test_kgnnls
import test_ripplenet
import torch

from helpers.twin_case import default_dtype, distance, total
from recbole_tinykg.ops import reference
from recbole_tinykg.ops.reference import spmm as library_user

WITH_PRODUCTS = [
    test_kgat.TestTinyKGAT,
    test_kgcn.TestTinyKGCN,
    test_kgin.TestTinyKGIN,
    test_kgnnls.TestTinyKGNNLS,
    test_ripplenet.TestTinyRippleNet,
]
GENERIC = [
    test_generic.TestTinyCFKG,
    test_generic.TestTinyCKE,
    test_generic.TestTinyKTUP,
    test_generic.TestTinyMCCLK,
    test_generic.TestTinyMKR,
]

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")


def without_native(monkeypatch):
    """Have every function of `ops` call the reference; return a list that fills with matrices."""
    for path, module in list(sys.modules.items()):
        if not path.startswith("recbole_tinykg.ops."):
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, torch._ops.OpOverload):
                operator = value._schema.name.removeprefix("recbole_tinykg::")
                monkeypatch.setattr(module, name, getattr(reference, operator))
    module, matrices = sys.modules[library_user.__module__], []

    def record(*args):
        matrices.append(build(*args))
        return matrices[-1]

    build = module.library_matrix
    monkeypatch.setattr(module, "library_matrix", record)
    return matrices


def step_and_scores(case, dtype):
    """Return losses, gradients and scores of a new twin on the data set `tiny`."""
    twin = case.build(case.twin, "tiny", compress_bits=2).to(dtype)
    results = {}
    with default_dtype(dtype):
        for loss, batch in case.data("tiny")[1].items():
            case.draw_alike()
            twin.zero_grad()
            value = total(getattr(twin, loss)(batch))
            value.backward()
            results[loss] = value.detach()
            for name, parameter in twin.named_parameters():
                if parameter.grad is not None:
                    results[f"{loss}, gradient of {name}"] = parameter.grad.clone()
        twin.eval()
        for score in case.scores:
            with torch.no_grad():
                results[score] = getattr(twin, score)(case.scored_pairs("tiny"))
    return results


def both(case, dtype, monkeypatch):
    """Return the results with native kernels and without, and the matrices of the latter."""
    native = step_and_scores(case, dtype)
    with monkeypatch.context() as patch, torch.sparse.check_sparse_tensor_invariants():
        matrices = without_native(patch)
        fallback = step_and_scores(case, dtype)
    assert fallback.keys() == native.keys()
    return native, fallback, matrices


@pytest.mark.parametrize("model", WITH_PRODUCTS, ids=lambda m: m.twin)
def test_a_step_of_float64_is_the_same_to_rounding(model, monkeypatch):
    native, fallback, matrices = both(model(), torch.float64, monkeypatch)
    assert matrices
    for name, expected in native.items():
        if expected.any():
            assert distance(fallback[name], expected) < 1e-10, name
        else:
            assert not fallback[name].any(), name


@pytest.mark.parametrize("model", GENERIC, ids=lambda m: m.twin)
def test_a_step_without_products_is_the_same_to_the_bit(model, monkeypatch):
    native, fallback, _ = both(model(), torch.float32, monkeypatch)
    for name, expected in native.items():
        assert torch.equal(fallback[name], expected), name
