"""The `raftlab` command line. Each command is a module of :mod:`raftlab.tools`; this one lists them.

:mod:`raftlab.command_line` defines the exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Container, Sequence
from typing import Protocol, cast

from raftlab import __version__, command_line


class CommandModule(Protocol):
    """The members that every module of a command must have."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return the exit code. If the command cannot be carried out, raise one of :func:`refusals` or
        ``OSError``. In both cases, the caller closes ``arguments.cleanup``, an ``ExitStack``."""


# By name: the command's module in raftlab.tools, and a phrase that says what the command does. Only the module of the given
# command is imported, because importing all of them takes longer than many commands run.
COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("new", "create a folder to work in"),
    "test": ("test", "run the tests of a lab"),
    "check": (
        "check_labs",
        "run a lab and the labs before it with many seeds, in the simulator and on the real network, "
        "to see whether you are done",
    ),
    "replay": ("replay", "repeat one run exactly, and print its events"),
    "shrink": ("shrink", "make a failing run as short as possible"),
    "diff": ("diff", "find where a failing run departs from a passing one"),
    "fuzz": ("fuzz", "run random scenarios of commands and faults until one fails"),
    "view": ("view", "show a run as a picture, in the browser"),
    "play": ("play", "play with a cluster of your servers, in the browser"),
    "labs": ("list_labs", "list the labs and their tests"),
}


def refusals() -> tuple[type[Exception], ...]:
    """The exceptions whose message is already a sentence for the user."""
    from raftlab import labs
    from raftlab.harness.trace import BadTrace
    from raftlab.runs.names import BadName
    from raftlab.sandbox.levels import SandboxUnavailable
    from raftlab.suites.catalogue import UnknownTest
    from raftlab.tools.arguments import CommandError
    from raftlab.tools.many_runs import WorkerLost
    from raftlab.viewer.page import CannotShow

    return (
        CommandError,
        WorkerLost,
        SandboxUnavailable,
        BadName,
        CannotShow,
        BadTrace,
        UnknownTest,
        labs.UnknownLab,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the command line of this process). Returns the exit code. Raises
    ``SystemExit`` if argparse does."""
    command_line.prepare_streams()
    command_line.end_on_signals()

    def command() -> int:
        words = sys.argv[1:] if argv is None else argv
        given = next((word for word in words if not word.startswith("-")), "")
        arguments = make_parser((given,)).parse_args(argv)
        with contextlib.ExitStack() as arguments.cleanup:
            code: int = arguments.run(arguments)
        return code

    return command_line.run("raftlab", command, refusals, cannot_write="")


def make_parser(complete: Container[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        complete: the commands whose arguments the parser can parse. The parser only lists the others.
    """
    parser = command_line.Parser(
        prog="raftlab", description="Learn Raft by writing it.", epilog=command_line.EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"raftlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, does) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        if name in complete:
            module = cast(CommandModule, importlib.import_module(f"raftlab.tools.{module_name}"))
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
