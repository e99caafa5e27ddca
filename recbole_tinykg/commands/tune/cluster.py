"""Starts or joins a Ray cluster, quietly."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from recbole_tinykg.errors import ConfigurationError, UserError

_OLDEST = (2, 43)  # the first whose tune.report takes a dictionary
_INSTALL = "pip install recbole-tinykg[tune]"
_OBJECT_STORE_BYTES = 200 * 2**20  # trials share files, not objects
_LONGEST_FOLDER = 30  # characters; Ray puts Unix sockets, 107 characters at most, 70 below it
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output cannot be switched off completely
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials keep their own history
    "TUNE_GLOBAL_CHECKPOINT_S": "5",  # Ray's state of a search is small
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def require(searcher: str) -> None:
    """Raise UserError if Ray Tune, or the searcher's library, is not installed."""
    needed = ["ray.tune", *(["optuna"] if searcher == "optuna" else [])]
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)  # read when Ray is imported
    for name in needed:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"tune needs {name}, which is not there: {_INSTALL}") from error
    if searcher == "optuna":
        logging.getLogger("optuna").setLevel(logging.ERROR)
    version = importlib.import_module("ray").__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(f"tune needs Ray {oldest} or newer; got {version}: {_INSTALL}")


def check_address(address: str | None) -> None:
    """Raise ConfigurationError unless an address has the form of a cluster's."""
    if address is not None and not re.fullmatch(r"auto|[^\s/:]+:\d{1,5}", address):
        raise ConfigurationError(f"--address must be HOST:PORT or auto; got {address!r}")


@contextmanager
def silence() -> Iterator[TextIO]:
    """Yield standard output, and discard what other code prints in the block.

    Ray prints when a worker dies, whatever its log level.
    """
    out = sys.stdout
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield out


@contextmanager
def connect(address: str | None, cpus: float, gpus: float) -> Iterator[None]:
    """Connect Ray, for the block, to a cluster in which a trial fits.

    If the process is connected already, that cluster is used and left as it is. A cluster that is
    started here ends with the block, and its folder with it.

    Args:
        address: `HOST:PORT` or `auto` of a running cluster; None: start one on this machine.
            For a cluster that asks for Ray's token the user sets `RAY_AUTH_MODE`.
        cpus: Of a trial.
        gpus: Of a trial.

    Raises:
        ConfigurationError: No cluster at the address, or a trial does not fit into it.
    """
    import ray

    is_connected = ray.is_initialized()
    folder = None if address or is_connected else _short_folder()
    try:
        if not is_connected:
            _start_or_join(address, folder)
            _check_package()
        resources = ray.cluster_resources()
        for flag, amount, resource in (("--cpus", cpus, "CPU"), ("--gpus", gpus, "GPU")):
            if amount > resources.get(resource, 0):
                raise ConfigurationError(
                    f"{flag} must be at most {resources.get(resource, 0):g}, what the Ray cluster "
                    f"has; got {amount:g}"
                )
        with interrupt_at_sigterm():  # after Ray has set its own handler
            yield
    finally:
        if not is_connected:
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def interrupt_at_sigterm() -> Iterator[None]:
    """Make SIGTERM do what Ctrl-C does, in the block; Python allows it in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Call what Ctrl-C calls: Python's handler, or Ray Tune's, which saves its state."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _start_or_join(address: str | None, folder: str | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        ray.init(address="local", _temp_dir=folder, **quiet)
        return
    path = os.environ.get("PYTHONPATH")  # a cluster started here inherits it, others do not
    if path:
        absolute = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
        quiet["runtime_env"] = {"env_vars": {"PYTHONPATH": absolute}}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigurationError(
            f"--address must be of a running Ray cluster; got {address}: {reason} "
            "(start one by `ray start --head`; set RAY_AUTH_MODE=token if it asks for Ray's token; "
            "or leave --address out)"
        ) from error


def _check_package() -> None:
    """Raise UserError if workers cannot import this package."""
    import ray

    def found() -> bool:
        from importlib.util import find_spec

        return find_spec("recbole_tinykg") is not None

    if not ray.get(ray.remote(num_cpus=0)(found).remote()):
        raise UserError(
            "tune needs recbole_tinykg on every machine of the Ray cluster, and its workers do not "
            "find it: install it there, in the Python that runs Ray"
        )


def _short_folder() -> str:
    """Create a folder whose name is short enough for the paths of Ray's sockets."""
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_FOLDER - len("/ray-12345678"):
        parent = "/tmp"
    return tempfile.mkdtemp(prefix="ray-", dir=parent if Path(parent).is_dir() else None)
