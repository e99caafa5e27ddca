"""The command `recbole-tinykg`: finds the sub-command; an error becomes a line and a status.

Arguments are RecBole's: `--key=value` for every parameter, and `--model KGAT` or `-m KGAT`
for the flags of RecBole's `run_recbole.py`. Anything else is refused.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from recbole_tinykg.commands.catalogue import COMMANDS, OVERVIEW, Command
from recbole_tinykg.errors import ConfigurationError, UserError, did_you_mean

_SHORT = {"-m": "--model", "-d": "--dataset", "-n": "--nproc"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments; None: the process's own.

    Returns:
        0; 2 for wrong input, 130 when interrupted.
    """
    # PyTorch may ask Linux for pages of 2 MB, unless the user has decided otherwise: maps of all
    # nodes are tens of MB, allocated and freed in every step, and with pages of 4 KB their page
    # faults cost as much as their arithmetic. Read at the first large allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        named = bool(argv) and not argv[0].startswith("-")
        command = _command(argv.pop(0) if named else "train")
        if any(argument in ("-h", "--help") for argument in argv):
            print(command.help if named else OVERVIEW, end="")
            return 0
        flags, parameters = _split(command, _join(command, argv))
        # imported only when it runs, so that `--help` and typing errors answer at once
        importlib.import_module(f"recbole_tinykg.commands.{command.module}").run(flags, parameters)
    except UserError as error:
        print(f"recbole-tinykg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        hint = " ".join(getattr(interrupt, "__notes__", ["no checkpoint was written"]))
        print(f"\nrecbole-tinykg: interrupted; {hint}", file=sys.stderr)
        return 130
    return 0


def _command(name: str) -> Command:
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        hint = f"; {near}" if near else ": see --help"
        raise ConfigurationError(
            f"command must be one of {', '.join(COMMANDS)}; got {name!r}{hint}"
        )
    return COMMANDS[name]


def _join(command: Command, argv: Sequence[str]) -> list[str]:
    """Write `-m KGAT` and `--model KGAT` as `--model=KGAT`, `--switch` with `=True`."""
    spaced = {"--nproc", *(f"--{flag}" for flag in command.flags)}
    switches = {f"--{switch}" for switch in command.switches}
    arguments: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name = _SHORT.get(argument, argument)
        if name in switches:
            argument = f"{name}=True"
        elif name in spaced:
            value = next(rest, None)
            if value is None:
                raise ConfigurationError(f"{argument} must be followed by a value; got none")
            argument = f"{name}={value}"
        arguments.append(argument)
    return arguments


def _split(command: Command, argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separate the flags of a command from parameters, which stay `--key=value`."""
    own = {*command.flags, *command.switches}
    flags: dict[str, str] = {}
    parameters = []
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and equals and name in own:
            if not value:
                raise ConfigurationError(f"--{name} must have a value; got ''")
            if flags.setdefault(name, value) != value:
                raise ConfigurationError(f"--{name} must be given once; got it twice")
        else:
            parameters.append(argument)
    return flags, parameters


if __name__ == "__main__":
    sys.exit(main())
