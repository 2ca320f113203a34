"""The `raftlab` command line. Each command is a module of :mod:`raftlab.tools`; this one lists them.

Exit codes are those of :mod:`raftlab.command_line`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from raftlab import __version__, command_line, labs
from raftlab.harness.trace import BadTrace
from raftlab.runs import names
from raftlab.suites import catalogue
from raftlab.tools import diff, fuzz, list_labs, new, replay, shrink, test, view
from raftlab.tools.arguments import CommandError
from raftlab.viewer import page


class CommandModule(Protocol):
    """What a module that implements a command has."""

    HELP: str
    """What the command does, as a phrase."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Returns the exit code; raises one of :data:`REFUSALS` or ``OSError``."""


COMMANDS: dict[str, CommandModule] = {
    "new": new,
    "test": test,
    "replay": replay,
    "shrink": shrink,
    "diff": diff,
    "fuzz": fuzz,
    "view": view,
    "labs": list_labs,
}

# Exceptions whose message is a sentence for the user.
REFUSALS = (CommandError, names.BadName, page.CannotShow, BadTrace, catalogue.UnknownTest, labs.UnknownLab)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of this process). Returns the exit code; raises ``SystemExit`` where
    argparse does."""
    command_line.tolerate_narrow_terminals()
    arguments = make_parser().parse_args(argv)
    return command_line.run("raftlab", lambda: arguments.run(arguments), REFUSALS, cannot_write="")


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.Parser(
        prog="raftlab", description="Learn Raft by writing it.", epilog=command_line.EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"raftlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        description = f"{module.HELP[0].upper()}{module.HELP[1:]}."
        command = commands.add_parser(name, help=module.HELP, description=description)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
