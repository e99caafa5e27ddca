"""The flags of `recbole-tinykg recommend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from recbole_tinykg.commands.flags import checkpoint_changes, named_file
from recbole_tinykg.commands.recommend.output import FORMATS, open_output, write
from recbole_tinykg.config.parameters import read_literal
from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.serving import recommend

_FORMAT_OF = {".csv": "csv", ".json": "json", ".jsonl": "json"}


def run(flags: Mapping[str, str], parameters: Sequence[str]) -> None:
    """Write the best items for users; parameters win over those it was trained with."""
    checkpoint = named_file(flags, "checkpoint")
    file_format = _file_format(flags)
    item_field, num_paths = flags.get("item_field"), read_literal(flags.get("paths", "0"))
    results = recommend(
        checkpoint,
        _users(flags),
        k=read_literal(flags.get("k", "10")),
        paths=num_paths,
        seen=flags.get("seen", "all"),
        item_field=item_field,
        config_dict=checkpoint_changes(parameters),
    )
    output = flags.get("output")
    with open_output(output) as file:
        # on a terminal, unless the output goes there
        counted = tqdm(results, desc="users", unit=" users", disable=None if output else True)
        write(counted, file, file_format, num_paths=num_paths, item_field=item_field)


def _file_format(flags: Mapping[str, str]) -> str:
    """Return the format asked for, or the one that the name of the output file says."""
    suffix = Path(flags.get("output", "")).suffix
    file_format = flags.get("format", _FORMAT_OF.get(suffix, "table"))
    if file_format not in FORMATS:
        raise ConfigurationError(
            f"--format must be one of {', '.join(FORMATS)}; got {file_format!r}"
        )
    return file_format


def _users(flags: Mapping[str, str]) -> list[str] | None:
    """Read users' tokens from the flag or the file; None if neither is given."""
    if {"users", "users_file"} <= flags.keys():
        raise ConfigurationError("--users must come without --users_file; got both")
    if "users_file" in flags:
        return _read_users_file(flags["users_file"])
    if "users" not in flags:
        return None
    given = flags["users"].strip()
    if given.startswith("[") and given.endswith("]"):
        given = given[1:-1]
    users = [token.strip() for token in given.split(",")]
    if not all(users):
        raise ConfigurationError(
            f"--users must be tokens with commas between, such as 196,186; got {flags['users']!r}"
        )
    return users


def _read_users_file(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"--users_file {file} cannot be read: {reason}") from error
    users = [line.strip() for line in lines if line.strip()]
    if not users:
        raise ConfigurationError(f"--users_file {file} must have a user's token per line; got none")
    return users
