"""Bad arguments raise errors that name them, on every backend; nothing is read out of bounds."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from recbole_tinykg import ops
from recbole_tinykg.ops import reference

X, NOISE = torch.zeros(4, 9), torch.zeros(2, dtype=torch.int64)
CROW, COL, VALUES = torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2)
KEPT, SQUARE = ops.quantize(X, NOISE, bits=2), torch.zeros(2, 2)


def dequantize(codes=KEPT[0], minimum=KEPT[1], step=KEPT[2], **changes):
    keywords = {"num_columns": 9, "bits": 2, "dtype": torch.float32} | changes
    return ops.dequantize(codes, minimum, step, **keywords)


REFUSED = {
    "x must be a matrix (N, D); got shape (4,)": lambda: ops.quantize(X[:, 0], NOISE, bits=2),
    "x must be float16, bfloat16, float32 or float64; got torch.int64": lambda: ops.quantize(
        X.long(), NOISE, bits=2
    ),
    "bits must be one of 1, 2, 4, 8; got 3": lambda: ops.quantize(X, NOISE, bits=3),
    "stream must have shape (2,); got (3,)": lambda: ops.quantize(
        X, torch.zeros(3, dtype=torch.int64), bits=2
    ),
    "stream must be torch.int64; got torch.int32": lambda: ops.dropout(
        X, NOISE.int(), probability=0.5
    ),
    "stream must be on meta; got cpu": lambda: ops.quantize(X.to("meta"), NOISE, bits=2),
    "first_row must be at least 0; got -1": lambda: ops.quantize(X, NOISE, bits=2, first_row=-1),
    "codes must have shape (4, 2); got (4, 3)": lambda: dequantize(num_columns=8),
    "codes must be torch.uint8; got torch.int32": lambda: dequantize(codes=KEPT[0].int()),
    "minimum must have shape (4, 1); got (3, 1)": lambda: dequantize(minimum=KEPT[1][1:]),
    "minimum must be torch.float64; got torch.float32": lambda: dequantize(dtype=torch.float64),
    "step must be torch.bfloat16; got torch.float32": lambda: dequantize(step=KEPT[2].float()),
    "dtype must be float16, bfloat16, float32 or float64; got torch.int8": lambda: dequantize(
        dtype=torch.int8
    ),
    "mask must have shape (4, 2); got (4, 1)": lambda: ops.leaky_relu_backward(
        X, ops.sign_mask(X[:, :8]), negative_slope=0.1
    ),
    "probability must be in [0, 1]; got 1.5": lambda: ops.dropout(X, NOISE, probability=1.5),
    "crow must have shape (M + 1,); got (0,)": lambda: ops.spmm(CROW[:0], COL, VALUES, X),
    "crow must be int32 or int64; got torch.float32": lambda: ops.spmm(VALUES, COL, VALUES, X),
    "col must be torch.int64; got torch.int32": lambda: ops.spmm(CROW, COL.int(), VALUES, X),
    "col must have shape (E,); got (1, 2)": lambda: ops.spmm(CROW, COL[None], VALUES, X),
    "values must have shape (2,); got (1,)": lambda: ops.spmm(CROW, COL, VALUES[1:], X),
    "values must be torch.float32; got torch.float64": lambda: ops.spmm(
        CROW, COL, VALUES.double(), X
    ),
    "out must have shape (2, 9); got (4, 9)": lambda: ops.spmm_add_(X, CROW, COL, VALUES, X),
    "rows must be torch.int64; got torch.int32": lambda: ops.spmm(CROW, COL, VALUES, X, CROW.int()),
    "places must be torch.int32; got torch.int64": lambda: ops.spmm(
        CROW, COL, VALUES, X, places=CROW
    ),
    "codes must have shape (3, 3); got (4, 3)": lambda: ops.dequantize_(X[1:], *KEPT, bits=2),
    "codes must have shape (4, 5); got (4, 3)": lambda: ops.dequantize_(X, *KEPT, bits=4),
    "minimum must be torch.float64; got torch.float32 ": lambda: ops.dequantize_(
        X.double(), *KEPT, bits=2
    ),
    "codes must have shape (2, 3); got (4, 3)": lambda: ops.dequantize_add_(X, *KEPT, COL, bits=2),
    "index must be torch.int64; got torch.int32": lambda: ops.dequantize_add_(
        X, *KEPT, COL.int(), bits=2
    ),
    "addend must have shape (4, 9); got (3, 9)": lambda: ops.leaky_relu_dropout_(
        X.clone(), NOISE, X[1:], negative_slope=0.1, probability=0.5
    ),
    "addend must be torch.float32; got torch.float64": lambda: ops.leaky_relu_dropout_(
        X.clone(), NOISE, X.double(), negative_slope=0.1, probability=0.5
    ),
    "mask must be torch.uint8; got torch.bool": lambda: ops.leaky_relu_dropout_backward(
        X, ops.sign_mask(X).bool(), NOISE, negative_slope=0.1, probability=0.5
    ),
    "probability must be in [0, 1]; got -0.5": lambda: ops.leaky_relu_dropout_(
        X.clone(), NOISE, negative_slope=0.1, probability=-0.5
    ),
    "num_columns must be at least 0; got -3": lambda: dequantize(num_columns=-3),
    "codes must be a matrix; got shape (4,)": lambda: dequantize(codes=KEPT[0][:, 0]),
    "out must have a place in memory for each element; got strides (0, 1)": lambda: ops.dequantize_(
        X[:1].expand(4, 9), *KEPT, bits=2
    ),
    "x must have a place in memory for each element; got strides (9, 0)": lambda: (
        ops.leaky_relu_dropout_(X[:, :1].expand(4, 9), NOISE, negative_slope=0.1, probability=0.5)
    ),
    "first_row must be below 4611686018427387900 for a matrix of shape (4, 9); "
    "got 4611686018427387900": lambda: ops.dropout(X, NOISE, probability=0.5, first_row=2**62 - 4),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(message):
    with pytest.raises((TypeError, ValueError)) as error:
        REFUSED[message]()
    assert str(error.value) == message.strip()


@pytest.mark.parametrize("message", [m for m in REFUSED if "stream must be on" not in m])
def test_wrong_arguments_are_named_whatever_the_kernel(message, monkeypatch):
    """The same checks run on fake tensors, which have no kernels."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name in ("X", "NOISE", "CROW", "COL", "VALUES"):
            monkeypatch.setitem(globals(), name, mode.from_tensor(globals()[name]))
        monkeypatch.setitem(globals(), "KEPT", tuple(map(mode.from_tensor, KEPT)))
        test_wrong_arguments_are_named(message)


def test_sparse_tensors_are_refused():
    for sparse in (X.to_sparse(), X.to_sparse_csr()):
        with pytest.raises(
            ValueError, match=r"x must be dense \(torch.strided\); got torch.sparse"
        ):
            ops.sign_mask(sparse)


def test_product_is_not_added_to_what_it_reads():
    with pytest.raises(ValueError, match="out must not be dense"):
        ops.spmm_add_(SQUARE, CROW, COL, VALUES, SQUARE)
    for dense, grad in ((SQUARE, SQUARE.clone()), (SQUARE.clone(), SQUARE)):
        with pytest.raises(ValueError, match="out must be neither dense nor grad"):
            ops.spmm_backward_(SQUARE, CROW, COL, VALUES, dense, grad)


IN_PLACE = {
    "dequantize_": lambda out: ops.dequantize_(out, *KEPT, bits=2),
    "dequantize_add_": lambda out: ops.dequantize_add_(out, *KEPT, bits=2),
    "leaky_relu_dropout_": lambda out: ops.leaky_relu_dropout_(
        out, NOISE, negative_slope=0.1, probability=0.5
    ),
    "spmm_add_": lambda out: ops.spmm_add_(out[:2], CROW, COL, VALUES, X),
    "spmm_backward_": lambda out: ops.spmm_backward_(out, CROW, COL, VALUES, X, X[:2]),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_autograd_learns_of_what_was_written_in_place(name):
    leaf = torch.randn(4, 9, requires_grad=True)
    with pytest.raises(RuntimeError, match="must not require a gradient"):
        IN_PLACE[name](leaf * 2)
    written = leaf * 2
    result = written.square().sum()
    with torch.no_grad():
        IN_PLACE[name](written)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


OUT_OF_RANGE = {
    "index must hold rows of out, which has 4": lambda module: module.dequantize_add_(
        X.clone(), *(part[:2] for part in KEPT), torch.tensor([0, 4]), bits=2
    ),
    "col must hold rows of dense, which has 1": lambda module: module.spmm(
        CROW, COL, VALUES, X[:1]
    ),
    "rows must hold rows of the sparse matrix, which has 2": lambda module: module.spmm(
        CROW, COL, VALUES, X, torch.tensor([2])
    ),
}


@pytest.mark.parametrize("module", [ops, reference], ids=["kernel", "reference"])
@pytest.mark.parametrize("message", OUT_OF_RANGE)
def test_numbers_out_of_range_are_named_by_every_backend(message, module):
    with pytest.raises(RuntimeError, match=message):
        OUT_OF_RANGE[message](module)


def direct(name, *arguments, **keywords):
    return getattr(torch.ops.recbole_tinykg, name)(*arguments, **keywords)


SLOPPY = {
    "quantize": lambda: direct("quantize", X[0], NOISE, bits=2),
    "quantize, bits": lambda: direct("quantize", X, NOISE, bits=3),
    "quantize, stream": lambda: direct("quantize", X, NOISE.int(), bits=2),
    "dequantize, width": lambda: direct(
        "dequantize", *KEPT, num_columns=64, bits=2, dtype=torch.float32
    ),
    "dequantize, bits": lambda: direct(
        "dequantize", *KEPT, num_columns=9, bits=4, dtype=torch.float32
    ),
    "dequantize, dtype": lambda: direct(
        "dequantize", *KEPT, num_columns=9, bits=2, dtype=torch.float64
    ),
    "dequantize_, rows": lambda: direct("dequantize_", X[1:].clone(), *KEPT, bits=2),
    "dequantize_add_, rows": lambda: direct("dequantize_add_", X[1:].clone(), *KEPT, bits=2),
    "dequantize_add_, index": lambda: direct(
        "dequantize_add_", X.clone(), *KEPT, torch.tensor([0, 1, 2, 9]), bits=2
    ),
    "leaky_relu_backward": lambda: direct(
        "leaky_relu_backward", X, ops.sign_mask(X)[1:], negative_slope=0.1
    ),
    "leaky_relu_dropout_": lambda: direct(
        "leaky_relu_dropout_", X.clone(), NOISE, X[1:], negative_slope=0.1, probability=0.5
    ),
    "leaky_relu_dropout_backward": lambda: direct(
        "leaky_relu_dropout_backward",
        X,
        ops.sign_mask(X)[1:],
        NOISE,
        negative_slope=0.1,
        probability=0.5,
    ),
    "normalize_backward": lambda: direct("normalize_backward", X, X[1:], X[:, 0], eps=1e-12),
    "spmm, crow": lambda: direct("spmm", CROW + 1, COL, VALUES, X),
    "spmm_backward_, crow": lambda: direct(
        "spmm_backward_", X.clone(), CROW + 1, COL, VALUES, X, X[:2]
    ),
    "spmm_backward_, grad": lambda: direct("spmm_backward_", X.clone(), CROW, COL, VALUES, X, X),
}


@pytest.mark.parametrize("case", SLOPPY)
def test_kernels_called_past_the_checks_corrupt_nothing(case):
    with pytest.raises(RuntimeError):
        SLOPPY[case]()
