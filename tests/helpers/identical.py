"""Equality of nested states, bit for bit, with the place of the first difference."""

from __future__ import annotations

import torch


def flat(value, path="", found=None):
    """Return the leaves of nested containers by their path."""
    found = {} if found is None else found
    if isinstance(value, dict):
        for key, item in value.items():
            flat(item, f"{path}/{key}", found)
    elif isinstance(value, (list, tuple)):
        flat(dict(enumerate(value)), path, found)
    else:
        found[path] = value
    return found


def assert_identical(left, right):
    left, right = flat(left), flat(right)
    assert left.keys() == right.keys()
    for path, value in left.items():
        same = torch.equal(value, right[path]) if torch.is_tensor(value) else value == right[path]
        assert same, f"{path}: {value} and {right[path]}"
