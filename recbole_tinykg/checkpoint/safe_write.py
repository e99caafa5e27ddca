"""Whole files or none: written under another name, then renamed.

A process that is killed at any moment leaves the previous file or the new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from recbole_tinykg.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file of that name becomes `path` if the block succeeds.

    If the block fails, that file is removed, and `path` is as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_whole(path: Path, text: str, what: str = "") -> None:
    """Write a file in UTF-8, replacing it if it exists.

    Args:
        path: The file; its folder exists.
        text: What it holds.
        what: What an error calls it, before the path.

    Raises:
        UserError: The folder or the disk does not take the file.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{what} {path} cannot be written: {error.strerror}".lstrip()) from error
