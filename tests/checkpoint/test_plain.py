"""What a model keeps becomes tensors, numbers and plain containers, and comes back."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from enum import IntEnum

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recbole_tinykg import ops  # noqa: F401  spends PyTorch's warning about sparse CSR
from recbole_tinykg.checkpoint.plain import from_plain, to_plain


class Color(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Color.RED, 1),
        (OrderedDict(a=np.float32(1)), {"a": 1.0}),
        (defaultdict(list, {np.int64(2): [(1, None)]}), {2: [(1, None)]}),
        (torch.Size([2, 3]), (2, 3)),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_classes_become_plain_values(value, expected):
    result = to_plain(value)
    assert result == expected
    assert type(result) is type(expected)


KEYS = st.text().filter(lambda key: key != "__kind__") | st.integers()  # that one is reserved
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@settings(deadline=None)
@given(TREES)
def test_plain_values_stay_as_they_are(tree):
    assert to_plain(tree) == tree == from_plain(to_plain(tree))


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.uint32).reshape(2, 3), np.array([True]), np.zeros((0, 2))]
)
def test_arrays_come_back(array, tmp_path):
    back = from_plain(through_a_file({"array": array}, tmp_path))["array"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("layout", ["coo", "uncoalesced", "csr"])
def test_sparse_tensors_come_back(layout, tmp_path):
    indices = torch.tensor([[0, 2, 2], [1, 0, 0 if layout == "uncoalesced" else 1]])
    matrix = torch.sparse_coo_tensor(
        indices, torch.tensor([1.0, 2.0, 3.0]), (3, 2), check_invariants=True
    )
    if layout != "uncoalesced":
        matrix = matrix.coalesce()
    if layout == "csr":
        matrix = matrix.to_sparse_csr()
    back = from_plain(through_a_file({"matrix": matrix}, tmp_path))["matrix"]
    assert back.layout == matrix.layout
    assert torch.equal(back.to_dense(), matrix.to_dense())
    assert layout == "csr" or back.is_coalesced() == matrix.is_coalesced()


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "lil"])
def test_scipys_matrices_come_back(layout, tmp_path):
    matrix = sparse.random(5, 7, density=0.3, format=layout, random_state=1, dtype=np.float32)
    back = from_plain(through_a_file({"matrix": matrix}, tmp_path))["matrix"]
    assert back.format == matrix.format and back.dtype == matrix.dtype
    np.testing.assert_array_equal(back.toarray(), matrix.toarray())


def test_sets_come_back(tmp_path):
    assert from_plain(through_a_file({"seen": {1, 2}}, tmp_path))["seen"] == {1, 2}


def test_what_has_no_plain_form_is_named():
    with pytest.raises(TypeError, match=r"test_plain\.Opaque has no plain form"):
        to_plain({"a": [Opaque()]})


class Opaque:
    pass


def through_a_file(state, folder):
    torch.save(to_plain(state), folder / "state.pth")
    return torch.load(folder / "state.pth", weights_only=True)


def test_what_was_read_from_a_file_can_be_saved_again(tmp_path):
    state = through_a_file({"seen": {1, 2}, "array": np.arange(3)}, tmp_path)
    again = from_plain(through_a_file(state, tmp_path))
    assert again["seen"] == {1, 2}
    np.testing.assert_array_equal(again["array"], np.arange(3))
