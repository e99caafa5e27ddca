"""What a forward may change on a module besides gradients, put back after an extra forward.

BatchNorm counts and averages; models of RecBole count their steps (MultiVAE) or keep a history of
losses (DiffRec): in buffers, in tensors that are plain attributes, in numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put buffers and attributes of all modules back as they are now, tensors in place."""
    namespaces = [part for m in model.modules() for part in (vars(m), m._buffers)]
    kept = [dict(namespace) for namespace in namespaces]
    tensors = {  # that a forward could write to: no parameters, none inside a graph
        id(t): (t, t._version, t.clone())
        for namespace in kept
        for t in namespace.values()
        if isinstance(t, Tensor) and t.layout is torch.strided and not t.requires_grad
    }
    try:
        yield
    finally:
        for namespace, before in zip(namespaces, kept, strict=True):
            for name in namespace.keys() - before.keys():
                del namespace[name]
            namespace.update(before)
        with torch.no_grad():
            for tensor, version, value in tensors.values():
                if tensor._version != version:
                    tensor.copy_(value)
