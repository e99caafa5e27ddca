"""Replaces attributes of a module or an object for the duration of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(target: Any, **values: Any) -> Iterator[None]:
    """Give `target` other attributes in the block, and put the old ones back after it.

    An attribute that came from the class of `target` comes from there again.
    """
    attributes = vars(target)
    before = {name: attributes[name] for name in values.keys() & attributes.keys()}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(before)
