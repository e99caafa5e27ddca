"""Checkpoint files that are safe to open, whole or absent, and checked before they are used.

*Safe*: a file holds tensors, numbers, text and plain containers only, so `torch.load` reads it
with `weights_only=True` and runs no code. (RecBole pickles its `Config`;
`recbole-tinykg convert` turns such a file into ours.)

*Whole*: the bytes reach the disk before the file takes its name, in one step (`safe_write`).
Reading verifies every entry's checksum, which PyTorch omits.

*Checked*: another model, other shapes, another data set, other training parameters and a finished
run are each told apart, with the values that differ.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from recbole_tinykg.checkpoint.plain import from_plain, to_plain
from recbole_tinykg.checkpoint.safe_write import replacing
from recbole_tinykg.errors import CheckpointError

FORMAT = 1
"""Version of the layout, under the key `recbole_tinykg` of every checkpoint."""

_FORMAT_KEY = "recbole_tinykg"
_UNSAVED = {"KGAT": ("A_in",)}  # what RecBole trains with but does not save
_CACHE = "restore_"  # how RecBole's models name what they cache between evaluations
_FREE_KEYS = frozenset(
    "epochs stopping_step show_progress state checkpoint_dir data_path run_name device gpu_id "
    "use_gpu log_wandb wandb_project save_dataset dataset_save_path save_dataloaders "
    "dataloaders_save_path detect_anomaly compress_require_native cuda_graphs".split()
)
"""Keys that may change on resume: none of them changes what an epoch computes."""

FilePath = str | os.PathLike[str]


def save(path: FilePath, state: Mapping[str, Any]) -> None:
    """Write `state` to `path`, whole or not at all.

    Args:
        path: The file, replaced if it exists; its folder is created.
        state: Tensors, arrays and numbers in any containers that `to_plain` takes.

    Raises:
        CheckpointError: The folder or the disk does not take it; the previous file is unchanged.
    """
    path, content = Path(path), {_FORMAT_KEY: FORMAT, **to_plain(state)}
    with _write_errors(path):
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)


def duplicate(source: FilePath, target: FilePath) -> bool:
    """Make `target` the same file as `source`; False on a disk that has no hard links."""
    target = Path(target)
    try:
        with replacing(target) as temporary:
            temporary.unlink(missing_ok=True)
            os.link(source, temporary)
        _sync_folder(target.parent)
    except OSError:
        return False
    return True


def check_writable(path: FilePath) -> None:
    """Create the folder of `path` and a file in it, and remove the file.

    Raises:
        CheckpointError: It cannot be written; better to learn that before an epoch than after.
    """
    path = Path(path)
    with _write_errors(path):
        probe = path.with_name(f"{path.name}.tmp")
        probe.touch()
        probe.unlink()


def load(path: FilePath) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, every byte of it twice: for its checksums and its content.

    Raises:
        CheckpointError: The file does not exist, is damaged, was pickled by RecBole, or was written
            by something else or by a newer version.
    """
    path = Path(path)
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of foreign files
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can break the reader in any way
        raise CheckpointError(_foreign(path)) from error
    if not isinstance(state, dict) or _FORMAT_KEY not in state:
        raise CheckpointError(_foreign(path))
    if state[_FORMAT_KEY] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {state[_FORMAT_KEY]}, this version reads {FORMAT}: "
            "use the version of recbole_tinykg that wrote it"
        )
    return state


def model_state(model: Any) -> dict[str, Any]:
    """Return the names of a model and its stock model, and all it needs to score and to train."""
    name = type(model).__name__
    other = {k: v for k, v in model.other_parameter().items() if not k.startswith(_CACHE)}
    unsaved = {key: getattr(model, key) for key in _UNSAVED.get(name, ())}
    return {
        "model": name,
        "host": getattr(model, "stock_name", name),  # the entry's name since the first format
        "state_dict": dict(model.state_dict()),
        "other_parameter": {**other, **unsaved},
    }


def restore_model(model: Any, state: Mapping[str, Any]) -> None:
    """Load a checkpoint's weights into a model, with its attention matrix or tables.

    What the model has cached for evaluation belongs to other weights and is dropped.

    Raises:
        CheckpointError: The checkpoint is of another model, or of other shapes.
    """
    check_model(model, state)
    device = next(model.parameters()).device
    model.load_state_dict(state["state_dict"])
    other = from_plain(state["other_parameter"], device)
    other |= {key: None for key in vars(model) if key.startswith(_CACHE)}
    for key, value in other.items():
        current = getattr(model, key, None)
        if isinstance(current, defaultdict):
            other[key] = defaultdict(current.default_factory, value)
    model.load_other_parameter(other)


def check_class(model: Any, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint is of a model of this class."""
    name = type(model).__name__
    if state["model"] != name:
        raise CheckpointError(f"checkpoint is of model {state['model']}; got {name}")


def check_model(model: Any, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint is of this class with these parameter shapes."""
    check_class(model, state)
    now = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    kept = {key: tuple(value.shape) for key, value in state["state_dict"].items()}
    _refuse_differences("parameter shapes", kept, now)


def check_config(config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise CheckpointError if training would not continue as it began.

    Args:
        config: Plain parameters of the run that is to continue.
        state: The checkpoint.
    """
    kept, now = (
        {key: value for key, value in to_plain(c).items() if key not in _FREE_KEYS}
        for c in (state["config"], config)
    )
    newer = {key: now[key] for key in now.keys() - kept.keys() if now[key] is False}
    _refuse_differences("configuration", {**newer, **kept}, now)  # an older version had it off


def dataset_fingerprint(dataset: Any) -> dict[str, Any]:
    """Return name, sizes and checksums of a training split and of its knowledge graph, if any."""
    triples = getattr(dataset, "kg_feat", None)
    return {
        "name": dataset.dataset_name,
        "num_users": dataset.user_num,
        "num_items": dataset.item_num,
        "num_entities": getattr(dataset, "entity_num", None),
        "num_relations": getattr(dataset, "relation_num", None),
        "num_train_interactions": len(dataset.inter_feat),
        "num_triples": None if triples is None else len(triples),
        "train_checksum": _checksum(dataset.inter_feat, dataset.uid_field, dataset.iid_field),
        "triples_checksum": None if triples is None else _checksum(triples, *triples.columns),
    }


def check_dataset(fingerprint: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the data set is not the one that the checkpoint was trained on.

    Args:
        fingerprint: `dataset_fingerprint` of the training split.
        state: The checkpoint; one converted from RecBole's has no fingerprint and passes.
    """
    if "dataset" in state:
        _refuse_differences("data set", state["dataset"], fingerprint)


def check_unfinished(state: Mapping[str, Any], *, epochs: int, stopping_step: int) -> None:
    """Raise CheckpointError if nothing is left to train."""
    if "random_state" not in state:
        raise CheckpointError(
            "checkpoint holds no random state, so training cannot continue from it: "
            "evaluate it, or start a new run"
        )
    if state["epoch"] >= epochs - 1:
        raise CheckpointError(
            f"checkpoint is of a finished run: all {state['epoch'] + 1} epochs are trained; "
            "give a larger --epochs to go on, or evaluate it"
        )
    if state["cur_step"] > stopping_step:
        raise CheckpointError(
            f"checkpoint is of a finished run: stopped early after epoch {state['epoch']}, "
            f"{state['cur_step']} evaluations without a better result; "
            "give a larger --stopping_step to go on, or evaluate it"
        )


def _checksum(interaction: Any, *fields: str) -> int:
    checksum = 0
    for field in fields:
        checksum = zlib.crc32(interaction[field].numpy().tobytes(), checksum)
    return checksum


def _refuse_differences(what: str, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = sorted(key for key in {**kept, **now} if kept.get(key) != now.get(key))
    if differing:
        shown = "; ".join(
            f"{key}: {kept.get(key)} in the checkpoint, {now.get(key)} now" for key in differing[:3]
        )
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise CheckpointError(f"checkpoint does not fit, {what} differs: {shown}{more}")


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} must be a checkpoint file; there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is no checkpoint, or a truncated one") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {damaged} in it has a wrong checksum")


def _foreign(path: Path) -> str:
    """Say what a foreign archive is, from its bytes alone: nothing in it is run."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if any(b"recbole.model." in archive.read(name) for name in pickles):
            return (
                f"{path} is a pickled RecBole checkpoint, and reading it runs the code in it; "
                f"if you trust it, make ours of it: "
                f"recbole-tinykg convert --checkpoint={path} --output=<file>"
            )
    return f"{path} is not a checkpoint of recbole_tinykg"


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Create the folder of `path`; what fails there or in the block is a CheckpointError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        cause = error
        while isinstance(cause, RuntimeError) and cause.__context__ is not None:
            cause = cause.__context__  # PyTorch's writer wraps a failed write in RuntimeErrors
        if not isinstance(cause, OSError):
            raise cause from None
        raise CheckpointError(
            f"checkpoint {path} cannot be written: {cause.strerror}; "
            "make space, or give --checkpoint_dir=<a folder you can write>"
        ) from error
