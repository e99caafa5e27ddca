"""Errors that a user can mend.

Each message names the argument, what was expected, what came, and the remedy. The command line
prints it as one line and exits with status 2; programming errors keep their traceback.
"""


class UserError(Exception):
    """Wrong input, a missing file or a missing library: something outside the program."""


class ConfigurationError(UserError, ValueError):
    """A configuration key, model name or data set that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint file that cannot be read, does not fit, or cannot be written."""


class NativeLibraryError(UserError, RuntimeError):
    """The compiled kernels were required and are not there."""


class DivergenceError(UserError, ValueError):
    """Training has left the numbers: a loss is NaN."""

    def __init__(self) -> None:
        """Say what helps."""
        super().__init__("Training loss is nan: the run diverged; try a smaller learning_rate")
