"""The packages of a run unpacked, and both native libraries built for this machine's GPU.

    python -m benchmarks.gpu.install --wheels DIR --site DIR --results FILE

A wheel is an archive of what lies in a folder of packages, so unpacking is all: neither pip nor a
network is needed, and the packages of the machine, PyTorch among them, are found behind them. The
bytecode is compiled here, in parallel, and not by each process of its own. The build is `setup.py`
in place, for one GPU: code for others would take the time of the run.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu.wheels import NEEDED
from benchmarks.processes import ROOT, processor

IMPORTED = (
    "numpy pandas scipy sklearn recbole tensorboard texttable thop tabulate psutil yaml pytest "
    "pytest_timeout hypothesis setuptools"
).split()
VERSIONS = """
import importlib, json, warnings
warnings.simplefilter("ignore")
found = {"missing": []}
for name in %r:
    try:
        found[name] = getattr(importlib.import_module(name), "__version__", "there")
    except ImportError as error:
        found["missing"].append(f"{name}: {error}")
import torch
found["torch"] = torch.__version__
found["cuda"] = torch.version.cuda
if torch.cuda.is_available():
    found["gpu"] = torch.cuda.get_device_name()
    found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    found["gpu_bytes"] = torch.cuda.get_device_properties(0).total_memory
print(json.dumps(found))
"""
LOADED = """
import torch
from recbole_tinykg import ops
ops.require_native("cpu")
ops.require_native("%s")
ops.sign_mask(torch.ones(3, 9, device="%s"))
"""
TAIL = 4000


def main() -> None:
    """Unpack, look at what is there, build; what is known is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--wheels", type=Path, default=None, help="none: packages are there")
    parser.add_argument("--site", type=Path, required=True, help="folder to unpack them in")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    found: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count()}
    found["python"] = platform.python_version()

    def note(**numbers: Any) -> None:
        found.update(numbers)
        args.results.write_text(json.dumps(found, indent=1), encoding="utf-8")

    if args.wheels:
        start = time.perf_counter()
        note(wheels=unpack(args.wheels, args.site))
        note(unpack_seconds=round(time.perf_counter() - start, 1))
    versions = output_of([sys.executable, "-c", VERSIONS % (IMPORTED,)])
    note(versions=json.loads(versions.splitlines()[-1]), driver=driver())
    note(**build(args.device, found["versions"].get("capability", "")))
    print(json.dumps(found))
    sys.exit(bool(found["build_status"] or found["load_status"] or found["versions"]["missing"]))


def unpack(wheels: Path, site: Path) -> int:
    """Unpack all wheels of a folder beside each other; return how many there are.

    Raises:
        SystemExit: The folder holds none.
    """
    paths = sorted(wheels.glob("*.whl"))
    if not paths:
        raise SystemExit(
            f"--wheels must be a folder of wheels; got {wheels}, which holds none of the "
            f"{len(NEEDED)}: fill it with benchmarks/gpu/fetch_wheels"
        )
    site.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(unpack_one, paths, [site] * len(paths)))
    warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
    compileall.compile_dir(site, quiet=2, workers=0)
    return len(paths)


def unpack_one(path: Path, site: Path) -> None:
    """Unpack a wheel; what its `.data` folder has for the same place goes there, too."""
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(site)
    data = site / f"{'-'.join(path.name.split('-')[:2])}.data"
    for name in ("purelib", "platlib"):
        if (data / name).is_dir():
            shutil.copytree(data / name, site, dirs_exist_ok=True)


def build(device: str, capability: str) -> dict[str, Any]:
    """Build the libraries in place; return seconds, and the end of the output if that failed."""
    own = {"RECBOLE_TINYKG_CUDA": "1" if device == "cuda" else "0"}
    own |= {"TORCH_CUDA_ARCH_LIST": capability} if capability else {}
    start = time.perf_counter()
    objects = f"--build-temp={ROOT / 'build' / 'gpu' / 'objects'}"
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", objects]
    done = run(command, env={**os.environ, **own})
    seconds = round(time.perf_counter() - start, 1)
    loaded = run([sys.executable, "-c", LOADED % (device, device)])
    return {
        "build_seconds": seconds,
        "build_status": done.returncode,
        "build_tail": done.stdout[-TAIL:] if done.returncode else "",
        "load_status": loaded.returncode,
        "load_tail": loaded.stdout[-TAIL:],
    }


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository; errors are in its output."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=ROOT, text=True, check=False, **streams, **options)


def output_of(command: list[str]) -> str:
    """Run a command and return its output.

    Raises:
        SystemExit: It failed; with what it said.
    """
    done = run(command)
    if done.returncode:
        raise SystemExit(done.stdout[-TAIL:])
    return done.stdout


def driver() -> str:
    """Return what the driver says of the GPUs; nothing without one."""
    if not shutil.which("nvidia-smi"):
        return ""
    fields = "name,driver_version,memory.total,clocks.sm,clocks.mem"
    return run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]).stdout.strip()


if __name__ == "__main__":
    main()
