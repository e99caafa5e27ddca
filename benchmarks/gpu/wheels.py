"""The packages that a run on a bare machine needs, fetched as wheels and made small.

    benchmarks/gpu/fetch_wheels DIR

Versions are those of `requirements.lock` and `requirements-dev.lock`; PyTorch is not among the
packages, and neither is what a run does not import: Ray, plotting, linters. What an index has only
as source is built here; such packages are pure Python. Wheels of more than `LARGE` bytes are packed
anew with LZMA, which `zipfile` unpacks everywhere, and without their own tests and TensorBoard's
pages: two thirds of the bytes. Packing takes minutes (`--as-is`: none); a wheel that is there
already is kept.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.processes import ROOT

NEEDED = (
    "recbole colorama colorlog numpy pandas psutil PyYAML scikit-learn scipy tabulate tensorboard "
    "texttable thop tqdm "
    "absl-py cloudpickle joblib narwhals packaging protobuf python-dateutil pytz threadpoolctl "
    "typing_extensions tzdata setuptools "
    "pytest pytest-timeout hypothesis iniconfig pluggy Pygments sortedcontainers"
).split()
PYTHON = "3.12"
GLIBC = (17, 24, 27, 28, 31, 34)  # manylinux_2_N: pip takes the names literally
LARGE = 3 * 2**20
LIMIT = 60 * 2**20
UNUSED = re.compile(r"(^|/)tests?/|^tensorboard/webfiles\.zip$")


def main() -> None:
    """Fetch what is missing, and print what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--python", default=PYTHON, help="of the GPU's machine")
    parser.add_argument("--as-is", action="store_true", help="do not pack large wheels anew")
    parser.add_argument("--without", default="", help="packages that are there, with commas")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    left_out = {plain(name) for name in args.without.split(",")}
    wanted = {name: version for name, version in pinned().items() if name not in left_out}
    fetch(wanted, args.folder, args.python)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make_small, [] if args.as_is else wheels(args.folder)))
    total = sum(path.stat().st_size for path in args.folder.glob("*.whl"))
    print(f"{len(wanted)} wheels, {total / 2**20:.1f} MiB in {args.folder}")
    if total > LIMIT:
        print(f"more than {LIMIT / 2**20:.0f} MiB: leave out, by --without, what is there already")


def plain(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def pinned() -> dict[str, str]:
    """Return the versions of the needed packages, from the locks.

    Raises:
        KeyError: A package is in no lock.
    """
    lines = [
        line.split("#")[0].split(";")[0].strip()
        for name in ("requirements.lock", "requirements-dev.lock")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    locked = {plain(name): version for name, _, version in (x.partition("==") for x in lines)}
    return {plain(name): locked[plain(name)] for name in NEEDED}


def fetch(wanted: dict[str, str], folder: Path, python: str) -> None:
    """Download wheels that are missing, or build them from source where there are none."""
    there = {(plain(name), version) for name, version in map(name_and_version, wheels(folder))}
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    binary = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    for name, version in wanted.items():
        if (name, version) in there:
            continue
        one = [f"{name}=={version}", "--no-deps", "--quiet"]
        if pip("download", *one, *binary, *platforms, "--dest", str(folder)).returncode:
            print(f"{name} has no wheel: built from source", flush=True)
            pip("wheel", *one, "--wheel-dir", str(folder)).check_returncode()


def pip(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False)


def wheels(folder: Path) -> Iterable[Path]:
    """Return the wheels of a folder, in order of their names."""
    return sorted(folder.glob("*.whl"))


def name_and_version(wheel: Path) -> tuple[str, str]:
    """Return the two from a wheel's file name."""
    name, version, *_ = wheel.name.split("-")
    return name, version


def make_small(path: Path) -> None:
    """Pack a large wheel anew, without what no run reads, unless it was before."""
    with zipfile.ZipFile(path) as wheel:
        entries = wheel.infolist()
        if path.stat().st_size < LARGE or entries[0].compress_type == zipfile.ZIP_LZMA:
            return
        smaller = path.with_suffix(".small")
        with zipfile.ZipFile(smaller, "w", zipfile.ZIP_LZMA) as packed:
            for entry in entries:
                if not entry.is_dir() and not UNUSED.search(entry.filename):
                    packed.writestr(entry.filename, wheel.read(entry))
    smaller.replace(path)


if __name__ == "__main__":
    main()
