"""Arguments that several commands share: how they are declared, and how they are read."""

from __future__ import annotations

import argparse
from pathlib import Path

from raftlab.runs.run import seeds_of
from raftlab.tools import check

OUTPUT_FOLDER = Path("raftlab-out")
"""Where traces of failing runs and shortened scenarios go, in the current folder."""


class CommandError(Exception):
    """A command cannot do what its arguments ask for. The message is a sentence for the user."""


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Add ``--impl``, which :func:`submission` reads, and ``--no-preempt``."""
    parser.add_argument(
        "--impl", type=Path, metavar="PATH", help="your raft.py, or the folder with it (default: the current folder)"
    )
    parser.add_argument(
        "--no-preempt", action="store_true", help="switch threads only at blocking calls (simulator only)"
    )


def submission(arguments: argparse.Namespace, lab: str, with_pdb: bool = False) -> Path:
    """The submission that ``--impl`` names, once it has passed the contract check.

    Args:
        arguments: of a command with :func:`add_submission`.
        lab: the lab whose methods the submission must have.
        with_pdb: whether the command opens a debugger at a ``breakpoint()``.

    Raises:
        CommandError: the contract check found problems; the message lists them.
    """
    impl: Path = arguments.impl or (Path("raft.py") if Path("raft.py").exists() else Path("."))
    problems = check.check(impl, [lab])
    if with_pdb:
        # The check runs student code without a terminal, so that a breakpoint() in __init__ fails there.
        problems = [problem for problem in problems if "breakpoint()" not in problem.text]
    if problems:
        lines = []
        for problem in problems:
            lines.append(problem.text)
            lines += [f"  at {problem.where}"] if problem.where else []
            lines += [f"  read: {problem.handout}"] if problem.handout else []
        raise CommandError("\n".join(lines))
    return impl


def add_time_limit(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``--for``, which :func:`seconds` reads."""
    parser.add_argument("--for", dest="time", default="60s", metavar="TIME", help=help_text)


def seconds(arguments: argparse.Namespace) -> float:
    """The seconds that ``--for`` stands for: ``90``, ``90s``, ``5m`` or ``1h``. Raises :class:`CommandError`."""
    text: str = arguments.time
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise CommandError(f"--for takes a time such as 90s, 5m or 1h, not {text!r}")
    return int(number) * units[unit]


def seeds(text: str) -> range:
    """The seeds that ``--seeds`` stands for: ``20`` means 0 to 19, ``40:60`` means 40 to 59. Raises
    :class:`CommandError`."""
    try:
        return seeds_of(text)
    except ValueError as exc:
        raise CommandError(str(exc)) from None
