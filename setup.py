"""Build the native libraries and map `properties/` into the package; pyproject.toml holds the rest.

`csrc/cpu/**/*.cpp` becomes `recbole_tinykg/_native_cpu.so` and `csrc/cuda/*.cu` becomes
`_native_cuda.so`: plain shared libraries on PyTorch's stable ABI, opened by
`torch.ops.load_library`. They use nothing of Python and nothing of PyTorch that 2.10 lacks, so one
binary serves every Python and every PyTorch >= 2.10, and the wheel is tagged
`py3-none-<platform>`. PyTorch's BuildExtension would link libtorch_python and tie the file to one
interpreter; a compiler call per source does not.

Environment:
    CXX: the C++ compiler; by default the first of c++, g++, clang++.
    CXXFLAGS: more flags for it, which override those here.
    CUDA_HOME: where to look for nvcc when it is not on PATH.
    RECBOLE_TINYKG_CUDA: 1 builds the CUDA library even for a PyTorch without CUDA, 0 never builds
        it; unset, it is built where PyTorch has CUDA and nvcc is found.
    TORCH_CUDA_ARCH_LIST: the GPUs to build for, as in PyTorch's own extensions: "8.0 9.0+PTX". By
        default those of CUDA_ARCHITECTURES that nvcc knows, and PTX of the newest for later ones.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:  # its messages about pyproject.toml mislead
    raise SystemExit(
        "error: building recbole_tinykg needs setuptools 77.0.3 or newer and found "
        f"{setuptools.__version__}; run `pip install -U setuptools`"
    )

from setuptools import Extension, setup  # noqa: E402
from setuptools.command.bdist_wheel import bdist_wheel  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402
from setuptools.command.build_py import build_py  # noqa: E402

FLAGS = ["-O3", "-std=c++20", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-Icsrc"]
# No fused multiply-add, so that every device gives the same bits; random words are read as halves.
HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing"]
CPU_FLAGS = [*HOST_FLAGS, "-Wall", "-Wextra"]
CUDA_FLAGS = [
    "-DUSE_CUDA",
    "-fmad=false",
    "--expt-relaxed-constexpr",  # std::numeric_limits in kernels
    "-Xcompiler=" + ",".join(HOST_FLAGS),
]
CUDA_ARCHITECTURES = ["75", "80", "86", "90"]

MISSING_TORCH = (
    "building recbole_tinykg needs PyTorch 2.10 or newer{found}; run `pip install torch==2.13.0`, "
    "then install recbole_tinykg again with `pip install --no-build-isolation`"
)
MISSING_CXX = (
    "building recbole_tinykg needs a C++20 compiler (GCC 11, Clang 14 or newer), found no {name}; "
    "install one (Debian, Ubuntu: apt install g++; macOS: xcode-select --install) or name it in CXX"
)
MISSING_NVCC = (
    "RECBOLE_TINYKG_CUDA=1 needs nvcc and found none; install the CUDA toolkit and name its folder "
    "in CUDA_HOME, or unset RECBOLE_TINYKG_CUDA to build for the CPU only"
)
BAD_ARCHITECTURES = (
    "TORCH_CUDA_ARCH_LIST must hold compute capabilities that {nvcc} knows ({known}), such as "
    '"8.0 9.0+PTX"; got "{got}"'
)
CPU_ONLY = "warning: PyTorch has CUDA but there is no nvcc, so only the CPU library is built"
FAILED = "building recbole_tinykg failed in {command} (its messages are above)"


def stop(sentence: str, **values: str) -> SystemExit:
    """Return an exit with one sentence, which pip, build and make show without a traceback."""
    return SystemExit("error: " + sentence.format(**values))


def find_torch() -> tuple[Path, bool]:
    """Return the folder of the installed PyTorch and whether it has CUDA, without importing it.

    pip's build isolation hides the environment's packages from `import` but leaves them in place,
    and only headers and libraries are needed here.
    """
    spec = importlib.util.find_spec("torch")
    folders = [Path(spec.origin).parent] if spec and spec.origin else []
    folders += [Path(sysconfig.get_path(name), "torch") for name in ("platlib", "purelib")]
    folder = next((folder for folder in folders if (folder / "version.py").exists()), None)
    if folder is None:
        raise stop(MISSING_TORCH, found="")
    version = runpy.run_path(str(folder / "version.py"))
    if tuple(map(int, version["__version__"].split(".")[:2])) < (2, 10):
        raise stop(MISSING_TORCH, found=f" and found {version['__version__']}")
    return folder, version["cuda"] is not None


def find_cxx() -> list[str]:
    """Return the C++ compiler as a command; CXX may hold several words, as in `ccache g++`."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for command in map(shlex.split, names):
        if shutil.which(command[0]):
            return command
    raise stop(MISSING_CXX, name=", ".join(names))


def find_nvcc(torch_has_cuda: bool) -> str | None:
    """Return NVIDIA's compiler if the CUDA library is to be built, otherwise None."""
    choice = os.environ.get("RECBOLE_TINYKG_CUDA", "")
    if choice == "0" or not (choice == "1" or torch_has_cuda):
        return None
    toolkit = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=toolkit)
    if nvcc is None and choice == "1":
        raise stop(MISSING_NVCC)
    if nvcc is None:
        print(CPU_ONLY, file=sys.stderr)
    return nvcc


def cuda_architectures(nvcc: str) -> list[str]:
    """Return the -gencode flags: code for each architecture, and PTX for later GPUs."""
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = re.findall(r"compute_(\d+)", listing.stdout)
    names = [name for name in CUDA_ARCHITECTURES if name in known] or known[:1]
    names[-1] += "+PTX"
    if wanted := os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip():
        names = [name.replace(".", "") for name in re.split(r"[;,\s]+", wanted)]
    flags = []
    for name in names:
        number = name.removesuffix("+PTX")
        if number.rstrip("af") not in known:
            dotted = ", ".join(f"{name[:-1]}.{name[-1]}" for name in known)
            raise stop(BAD_ARCHITECTURES, nvcc=nvcc, known=dotted, got=wanted)
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name != number:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def run(command: list[str]) -> None:
    """Show a compiler call and run it."""
    print(shlex.join(command), flush=True)
    if subprocess.run(command).returncode:
        raise stop(FAILED, command=command[0])


def link_flags(torch: Path, name: str, scratch: Path) -> list[str]:
    """Return the flags that bind a library to the PyTorch in the process, without a local path."""
    if sys.platform == "darwin":
        return ["-undefined", "dynamic_lookup"]
    flags = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    if not name.endswith("cuda"):
        return flags
    if not (torch / "lib/libtorch_cuda.so").exists():
        # A PyTorch without CUDA: an empty library of that name records that it is needed.
        empty = ["-shared", "-x", "c++", os.devnull, "-Wl,-soname,libtorch_cuda.so"]
        run([*find_cxx(), *empty, "-o", str(scratch / "libtorch_cuda.so")])
    return [*flags, f"-L{scratch}", "-Xlinker", "--no-as-needed", "-ltorch_cuda"]


class BuildNative(build_ext):
    """Compile each source of a library and link the objects, without Python in between."""

    def run(self) -> None:
        """Build the CPU library, and the CUDA library where it is wanted and possible."""
        self.torch, torch_has_cuda = find_torch()
        own_flags = shlex.split(os.environ.get("CXXFLAGS", ""))
        self.compilers = {"_native_cpu": [*find_cxx(), *FLAGS, *CPU_FLAGS, *own_flags]}
        if nvcc := find_nvcc(torch_has_cuda):
            host = ["-ccbin", [word for word in find_cxx() if not word.startswith("-")][-1]]
            cuda = [*FLAGS, *CUDA_FLAGS, *cuda_architectures(nvcc)]
            self.compilers["_native_cuda"] = [nvcc, *host, *cuda]
        self.extensions = [e for e in self.extensions if e.name.split(".")[-1] in self.compilers]
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        """Return `recbole_tinykg/_native_cpu.so`: a name without interpreter and platform."""
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile the sources in parallel, then link."""
        compiler = [*self.compilers[ext.name.split(".")[-1]], "-isystem", f"{self.torch}/include"]
        library = Path(self.get_ext_fullpath(ext.name))
        objects = [Path(self.build_temp, source).with_suffix(".o") for source in ext.sources]
        for path in (library, *objects):
            path.parent.mkdir(parents=True, exist_ok=True)
        commands = [
            [*compiler, "-c", source, "-o", str(target)]
            for source, target in zip(ext.sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, commands))
        files = [*map(str, objects), "-o", str(library)]
        run(
            [*compiler, "-shared", *files, *link_flags(self.torch, ext.name, Path(self.build_temp))]
        )


class BuildPython(build_py):
    """Put `properties/` into the package; an editable install reads it from the checkout."""

    def run(self) -> None:
        """Copy the Python files, then the properties."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("properties", os.path.join(self.build_lib, "recbole_tinykg/properties"))


class TagAnyPython(bdist_wheel):
    """Tag the wheel for any Python 3: the native libraries do not depend on the interpreter."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return `py3-none-<platform>`."""
        return "py3", "none", super().get_tag()[2]


def extension(name: str, pattern: str) -> list[Extension]:
    """Return the library `name` from the sources that match `pattern`, or nothing without any."""
    sources = sorted(map(str, Path().glob(pattern)))
    headers = [str(path) for end in ("h", "cuh") for path in sorted(Path("csrc").rglob(f"*.{end}"))]
    return [Extension(f"recbole_tinykg.{name}", sources, depends=headers)] if sources else []


setup(
    ext_modules=[
        *extension("_native_cpu", "csrc/cpu/**/*.cpp"),
        *extension("_native_cuda", "csrc/cuda/*.cu"),
    ],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython, "bdist_wheel": TagAnyPython},
)
