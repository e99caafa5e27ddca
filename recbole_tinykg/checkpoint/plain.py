"""Any state of a model in plain containers, tensors and numbers, and back.

`torch.load(weights_only=True)` takes tensors, numbers, text, dict, list, tuple and little else.
Anything else that can be expressed in these becomes a dict with a reserved key, its tag::

    NumPy array    {"__kind__": "ndarray", "data": tensor}
    set            {"__kind__": "set", "items": [...]}
    sparse tensor  {"__kind__": "sparse_coo", "indices": …, "values": …, "size": …, "coalesced": …}
                   {"__kind__": "sparse_csr", "crow": …, "col": …, "values": …, "size": …}
    SciPy matrix   {"__kind__": "scipy", "format": …, "size": …, "data": …, "row": …, "col": …}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

_SCALARS = (bool, int, float, str, bytes)  # bool first: it is an int
_KIND = "__kind__"


def to_plain(value: Any) -> Any:
    """Return `value` in plain form: mappings are dicts, NumPy scalars numbers, tensors on the CPU.

    Raises:
        TypeError: A part of it has no plain form.
    """
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, Tensor):
        return _plain_tensor(value.detach())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if sparse.issparse(value):
        return _plain_matrix(value)
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(to_plain, value))
    if isinstance(value, list):
        return list(map(to_plain, value))
    if isinstance(value, (set, frozenset)):
        return {_KIND: "set", "items": list(map(to_plain, value))}
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)  # type: ignore[arg-type]  # a subclass of it
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no plain form")


def from_plain(value: Any, device: torch.device | str = "cpu") -> Any:
    """Undo `to_plain`, with tensors on `device`; a mapping stays a dict, a scalar a number."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        if _KIND in value:
            return _from_tagged(value, device)
        return {key: from_plain(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(item, device) for item in value)
    return value


def _plain_tensor(tensor: Tensor) -> Any:
    if tensor.layout is torch.sparse_coo:
        return {
            _KIND: "sparse_coo",
            "indices": _plain_tensor(tensor._indices()),
            "values": _plain_tensor(tensor._values()),
            "size": tuple(tensor.shape),
            "coalesced": tensor.is_coalesced(),
        }
    if tensor.layout is torch.sparse_csr:
        return {
            _KIND: "sparse_csr",
            "crow": _plain_tensor(tensor.crow_indices()),
            "col": _plain_tensor(tensor.col_indices()),
            "values": _plain_tensor(tensor.values()),
            "size": tuple(tensor.shape),
        }
    if tensor.layout is not torch.strided:
        raise TypeError(f"{tensor.layout} tensor has no plain form")
    tensor = tensor.cpu()
    is_slice = tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone() if is_slice else tensor  # a slice would take its whole storage along


def _plain_array(array: np.ndarray) -> Any:
    if array.dtype.kind in "biufc":
        return {_KIND: "ndarray", "data": torch.from_numpy(array.copy())}
    return to_plain(array.tolist())


def _plain_matrix(matrix: Any) -> Any:
    coo = matrix.tocoo()
    parts = {name: _plain_array(getattr(coo, name)) for name in ("data", "row", "col")}
    return {_KIND: "scipy", "format": matrix.format, "size": tuple(map(int, coo.shape)), **parts}


def _from_tagged(parts: dict[str, Any], device: torch.device | str) -> Any:
    """Rebuild what the tag of a dict names."""
    match parts[_KIND]:
        case "ndarray":
            return parts["data"].numpy()
        case "set":
            return set(from_plain(parts["items"], device))
        case "scipy":
            data, row, col = (from_plain(parts[name]) for name in ("data", "row", "col"))
            matrix = sparse.coo_matrix((data, (row, col)), parts["size"])
            return matrix.asformat(parts["format"])
        case "sparse_coo":
            return torch.sparse_coo_tensor(
                parts["indices"].to(device),
                parts["values"].to(device),
                parts["size"],
                is_coalesced=parts["coalesced"],
                check_invariants=True,
            )
        case "sparse_csr":
            return torch.sparse_csr_tensor(
                parts["crow"].to(device),
                parts["col"].to(device),
                parts["values"].to(device),
                size=parts["size"],
                check_invariants=True,
            )
    raise KeyError(parts[_KIND])
