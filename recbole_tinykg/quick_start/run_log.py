"""RecBole's log of a run: what it shows and writes to `./log`, one file per run."""

from __future__ import annotations

import logging
import sys
from typing import Any

from colorama import deinit
from colorama.ansitowin32 import StreamWrapper
from colorlog import ColoredFormatter
from recbole.utils import get_environment, init_logger, set_color
from recbole.utils.logger import RemoveColorFilter

from recbole_tinykg.config import Config
from recbole_tinykg.errors import UserError
from recbole_tinykg.quick_start.results import plain_metrics


def start(config: Config) -> None:
    """Start RecBole's logger, with a file for every run of a process, and log the parameters.

    RecBole configures the root logger only while it has no handlers: those of an earlier run are
    closed, those of other code are set aside meanwhile.
    """
    if isinstance(sys.stdout, StreamWrapper):
        deinit()  # RecBole's logger wraps the streams once more with every run
    root = logging.getLogger()
    others = []
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        if _is_recboles(handler):
            handler.close()
        else:
            others.append(handler)
    try:
        init_logger(config)
    except OSError as error:
        raise UserError(f"./log must be a writable folder for the log file; {error}") from error
    finally:
        for handler in others:
            root.addHandler(handler)
    root.info(config)


def end(config: Config, best_valid_result: Any, test_result: Any) -> None:
    """Log the machine and the results."""
    logger = logging.getLogger()
    environment = get_environment(config).draw()
    logger.info(f"The running environment of this training is as follows:\n{environment}")
    logger.info(set_color("best valid ", "yellow") + f": {plain_metrics(best_valid_result)}")
    logger.info(set_color("test result", "yellow") + f": {plain_metrics(test_result)}")


def _is_recboles(handler: logging.Handler) -> bool:
    return isinstance(handler.formatter, ColoredFormatter) or any(
        isinstance(log_filter, RemoveColorFilter) for log_filter in handler.filters
    )
