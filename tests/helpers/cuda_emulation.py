"""Builds CUDA kernels for the CPU, where `tests/ops/cuda_emulation` runs them as coroutines.

The operators are those of a namespace of their own, on CPU tensors. With
`CXXFLAGS="-fsanitize=address,undefined"` and the sanitizers preloaded, memory is checked too.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_tinykg.ops import registration

ROOT = Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent
CXX = shlex.split(os.environ.get("CXX", "g++"))
EMULATION = [
    *("-x", "c++", "-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"),
    *("-include", "cuda_emulation.h", f"-I{ROOT}/tests/ops/cuda_emulation", f"-I{ROOT}/csrc"),
]
FLAGS = [*EMULATION, "-isystem", f"{TORCH}/include", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
NAMESPACE = "recbole_tinykg_emulated"

needs_compiler = pytest.mark.skipif(shutil.which(CXX[0]) is None, reason="no C++ compiler")


def build(folder: Path, *stems: str) -> Path:
    """Compile `csrc/cuda/<stem>.cu` of each stem; return the library."""
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    sources = [ROOT / "csrc/cuda" / f"{stem}.cu" for stem in stems]
    compilers = [
        subprocess.Popen([*CXX, *FLAGS, *extra, "-c", source, "-o", folder / f"{source.stem}.o"])
        for source in sources
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
    libraries = [f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10"]
    objects = sorted(folder.glob("*.o"))
    library = folder / "emulated.so"
    subprocess.run([*CXX, *extra, "-shared", *objects, "-o", library, *libraries], check=True)
    return library


@contextlib.contextmanager
def loaded(library: Path, prefix: str = "") -> Iterator[Any]:
    """Declare the operators whose names begin with `prefix` and load their kernels."""
    definitions = torch.library.Library(NAMESPACE, "FRAGMENT")
    for schema in registration._SHAPE_RULES:
        if schema.startswith(prefix):
            definitions.define(schema)
    torch.ops.load_library(str(library))
    yield getattr(torch.ops, NAMESPACE)
    definitions._destroy()
