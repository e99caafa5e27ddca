"""Defers RecBole's files, silences its warnings, and rewords its errors.

RecBole's trainer makes a checkpoint folder and a TensorBoard file when it is constructed, even if
nothing is trained. Its loop calls PyTorch by outdated names, about which PyTorch warns. And what is
wrong with a data set it raises as a plain `ValueError`, as if the program were at fault.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import recbole.trainer.trainer
from recbole.config import Config

from recbole_tinykg.compat.patching import replaced
from recbole_tinykg.errors import ConfigurationError, UserError


def no_files() -> AbstractContextManager[None]:
    """Keep a RecBole trainer that is constructed in the block from making folders and files."""
    return replaced(
        recbole.trainer.trainer, ensure_dir=lambda _: None, get_tensorboard=lambda _: None
    )


def recboles_deprecations_ignored() -> AbstractContextManager[None]:
    """Silence warnings about outdated PyTorch functions that RecBole's loop and models call."""
    return recboles_warnings_ignored(".*deprecated")


@contextmanager
def recboles_warnings_ignored(message: str = "") -> Iterator[None]:
    """Silence warnings from RecBole's code, all or those whose message matches.

    It assigns in chains, which is fine before pandas 3, and divides by zero, which it corrects.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message, module=r"recbole\.")
        yield


@contextmanager
def recboles_data_errors(config: Config) -> Iterator[None]:
    """Turn RecBole's errors about files and splits that it cannot use into one for users.

    Raises:
        ConfigurationError: RecBole refused the data set.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, NotImplementedError) as error:
        raise ConfigurationError(
            f"RecBole cannot use the data set {config['dataset']} with these parameters: {error}"
        ) from error
