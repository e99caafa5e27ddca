"""Text files that are whole or not there: written under another name, then renamed.

A process that is killed at any moment leaves the previous file, or the new one.
"""

from __future__ import annotations

import os
from pathlib import Path

from recbole_tinykg.errors import UserError


def write_whole(path: Path, text: str, what: str = "") -> None:
    """Write a file in UTF-8, replacing it if it is there.

    Args:
        path: The file; its folder exists.
        text: What it holds.
        what: What an error calls it, before the path.

    Raises:
        UserError: The folder or the disk does not take the file.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{what} {path} cannot be written: {error.strerror}".lstrip()) from error
