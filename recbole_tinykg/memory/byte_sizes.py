"""Numbers of bytes as people write and read them."""

from __future__ import annotations

import re
from typing import Any

from recbole_tinykg.errors import ConfigurationError

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{kind}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for kind, base in (("B", 1000), ("iB", 1024))
}
_SIZE = r"(\d+(?:\.\d+)?) *([A-Za-z]*)"
_LIMIT = 2**63  # a number of bytes travels as int64


def read_bytes(value: Any, name: str = "size") -> int:
    """Read a number of bytes such as `268435456`, `256MiB` or `1.5 GB`.

    Args:
        value: An integer from 1 to 2^63 - 1, or text: a number and B, KB, KiB, MB, MiB, GB, GiB, TB
            or TiB.
        name: What an error calls it.

    Raises:
        ConfigurationError: `value` is neither.
    """
    size: float = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(_SIZE, value)):
        size = float(match[1]) * _UNITS.get(match[2], 0)
    if not 1 <= size < _LIMIT:
        raise ConfigurationError(
            f"{name} must be a positive number of bytes such as 256MiB, 1.5GB or 1000000; "
            f"got {value!r}"
        )
    return int(size)


def format_bytes(num_bytes: int | None) -> str:
    """Write bytes in MiB, KiB or B; `-` if they are not known."""
    if num_bytes is None:
        return "-"
    for unit, num_unit_bytes in (("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= num_unit_bytes:
            return f"{num_bytes / num_unit_bytes:.2f} {unit}"
    return f"{num_bytes} B"
