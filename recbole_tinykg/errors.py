"""Errors that a user can mend.

Each message names the argument, what was expected, what came, and the remedy. The command line
prints it as one line and exits with status 2; programming errors keep their traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input, a missing file or a missing library: something outside the program."""


class ConfigurationError(UserError, ValueError):
    """A configuration key, model name or data set that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint file that cannot be read, does not fit, or cannot be written."""


class NativeLibraryError(UserError, RuntimeError):
    """The compiled kernels were required and are not there."""


class DivergenceError(UserError, ValueError):
    """Training diverged: a loss is NaN."""

    def __init__(self) -> None:
        super().__init__("Training loss is nan: the run diverged; try a smaller learning_rate")


def did_you_mean(
    name: str, known: Iterable[str], *, cutoff: float = 0.6, ignore_case: bool = False
) -> str:
    """Return "did you mean X?" for the nearest known name, or nothing if none is near.

    Args:
        name: What was typed.
        known: What could have been meant.
        cutoff: The least similarity that counts, 0 to 1 (`difflib.get_close_matches`).
        ignore_case: Whether upper and lower case count as the same.
    """
    fold = str.lower if ignore_case else str
    by_folded = {fold(candidate): candidate for candidate in sorted(known)}
    near = difflib.get_close_matches(fold(name), by_folded, n=1, cutoff=cutoff)
    return f"did you mean {by_folded[near[0]]}?" if near else ""
