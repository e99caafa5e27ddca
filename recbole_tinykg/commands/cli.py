"""The command ``recbole-tinykg``: finds the sub-command; an error becomes a line and a status.

Arguments are RecBole's: ``--key=value`` for every parameter, and ``--model KGAT`` or ``-m KGAT``
for the flags of RecBole's ``run_recbole.py``. Anything else is refused.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from recbole_tinykg.errors import ConfigurationError, UserError

_HELP = """\
usage: recbole-tinykg [train] [--key=value ...]
       recbole-tinykg evaluate --checkpoint=FILE [--key=value ...]
       recbole-tinykg convert --checkpoint=FILE --output=FILE [--key=value ...]

Trains RecBole's knowledge-aware recommenders in a fraction of the memory.

train     writes saved/<run>.pth (best epoch), <run>-last.pth and <run>.json
  --model=TinyKGAT        a twin, or any model of RecBole's such as KGAT
  --model_list=A,B        several models, one after another, in one table
  --dataset=ml-100k       comes with RecBole; others are folders in --data_path
  --config_files="A B"    YAML files of parameters; arguments win over them
  --compress_bits=2       bits per kept activation: 1, 2, 4, 8; 32: uncompressed
  --compress_rounding=... stochastic (unbiased) or nearest
  --compress_seed=...     seed of compression noise and dropout; default: --seed
  --compress_require_native=True    stop if the compiled kernels are missing
  --detect_anomaly=False  stock models train without autograd's anomaly mode
  --resume=FILE           continue a run; other arguments change its parameters
  --epochs=5 --layers=[64,32,16] ...   every other parameter of RecBole's
evaluate  prints validation and test metrics of a checkpoint written by train
convert   rewrites a checkpoint that RecBole saved. It is a pickle, and opening
          a pickle runs whatever code is in it: convert only files you trust.
  --model=TinyKGAT        what to make of it; default: the twin, if there is one
"""

_FLAGS = {
    "train": ("model", "dataset", "config_files", "model_list", "resume"),
    "evaluate": ("checkpoint",),
    "convert": ("checkpoint", "output", "model"),
}
_SHORT = {"-m": "--model", "-d": "--dataset", "-n": "--nproc"}
_SPACED = {f"--{flag}" for flags in _FLAGS.values() for flag in flags} | {"--nproc"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments; None: those of the process.

    Returns:
        0; 2 for wrong input, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(argument in ("-h", "--help") for argument in argv):
        print(_HELP, end="")
        return 0
    _use_huge_pages()
    try:
        command = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
        flags, parameters = _split(command, _joined(argv))
        _runner(command)(flags, parameters)
    except UserError as error:
        print(f"recbole-tinykg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        hint = " ".join(getattr(interrupt, "__notes__", ["no checkpoint was written"]))
        print(f"\nrecbole-tinykg: interrupted; {hint}", file=sys.stderr)
        return 130
    return 0


def _use_huge_pages() -> None:
    """Lets PyTorch ask Linux for pages of 2 MB, unless the user has said otherwise.

    Maps of all nodes are tens of MB, taken and given back in every step; with pages of 4 KB their
    faults cost as much as their arithmetic. No number depends on it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read at the first large allocation


def _joined(argv: Sequence[str]) -> list[str]:
    """Writes ``-m KGAT`` and ``--model KGAT`` as ``--model=KGAT``."""
    arguments: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name = _SHORT.get(argument, argument)
        if name in _SPACED:
            value = next(rest, None)
            if value is None:
                raise ConfigurationError(f"{argument} must be followed by a value; got none")
            argument = f"{name}={value}"
        arguments.append(argument)
    return arguments


def _split(command: str, argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separates the flags of a command from parameters, which stay ``--key=value``."""
    if command not in _FLAGS:
        raise ConfigurationError(
            f"command must be one of {', '.join(_FLAGS)}; got {command!r}: see --help"
        )
    flags: dict[str, str] = {}
    parameters = []
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and equals and name in _FLAGS[command]:
            if flags.setdefault(name, value) != value:
                raise ConfigurationError(f"--{name} must be given once; got it twice")
        else:
            parameters.append(argument)
    return flags, parameters


def _runner(command: str) -> Callable[[Mapping[str, str], Sequence[str]], None]:
    """Imports a command when it is asked for: ``--help`` and typing errors answer at once."""
    return importlib.import_module(f"recbole_tinykg.commands.{command}").run


if __name__ == "__main__":
    sys.exit(main())
