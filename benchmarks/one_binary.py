"""One CPU library for many versions of PyTorch: built once, tested with each as it is.

    python -m benchmarks.one_binary
    python -m benchmarks.one_binary 2.10.0 2.12.1

For every version (by default the oldest supported and the newest that pip finds) a fresh
environment gets that PyTorch from the package index, a copy of this package with the library that
is built here, and the operators' tests; nothing is compiled. PyTorch's Linux wheels carry CUDA, so
an environment takes about 10 GB while it is tested, and a few minutes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "recbole_tinykg" / "_native_cpu.so"
OLDEST = "2.10.0"
NEEDED = ("numpy", "psutil", "pytest", "hypothesis", "setuptools")
TESTS = (
    "ops/test_quantize",
    "ops/test_dequantize",
    "ops/test_activation",
    "ops/test_arguments",
    "ops/test_properties",
    "ops/test_normalize",
    "ops/test_instruction_sets",
    "ops/test_spmm",
    "ops/test_spmm_backward",
    "quantization/test_noise_bounds",
)


def main() -> None:
    """Test the library with each version and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", help="of PyTorch; default: oldest and newest")
    versions = parser.parse_args().versions or [OLDEST, newest()]
    digest = hashlib.sha256(LIBRARY.read_bytes()).hexdigest()
    print(f"library: sha256 {digest[:16]}, built with PyTorch {torch.__version__}", flush=True)
    results = {version: tested_with(version) for version in versions}
    print(json.dumps({"sha256": digest, "built_with": torch.__version__, "results": results}))
    sys.exit(any("passed" not in line or "failed" in line for line in results.values()))


def newest() -> str:
    """Return the newest release of PyTorch on the index."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    listing = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"Available versions: ([\d.]+)", listing)
    if found is None:
        raise SystemExit(f"error: pip lists no versions of torch:\n{listing}")
    return found[1]


def tested_with(version: str) -> str:
    """The last line that the operators' tests print in an environment with that PyTorch."""
    with tempfile.TemporaryDirectory(prefix="one_binary-") as name:
        folder = Path(name)
        python = folder / "venv/bin/python"
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        install = [python, "-m", "pip", "install", "-qq", "--no-cache-dir"]
        subprocess.run([*install, f"torch=={version}", *NEEDED], check=True)
        for part in ("recbole_tinykg", "tests"):
            shutil.copytree(ROOT / part, folder / "copy" / part)
        line = run_tests(python, folder / "copy")
    print(f"PyTorch {version}: {line}", flush=True)
    return line


def run_tests(python: Path, copy: Path) -> str:
    """Run the tests of a copy without RecBole's part of `conftest.py`; the summary line."""
    script = "import recbole_tinykg, torch; print(recbole_tinykg.__file__, torch.__version__)"
    where = subprocess.run([python, "-c", script], cwd=copy, capture_output=True, text=True)
    print(where.stdout.strip() or where.stderr[-500:], flush=True)
    (copy / "pytest.ini").write_text("[pytest]\npythonpath = . tests\n")
    files = [f"tests/{name}.py" for name in TESTS]
    command = [python, "-m", "pytest", "-q", "--noconftest", *files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as `make test`
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-1000:], flush=True)
    return (done.stdout.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


if __name__ == "__main__":
    main()
