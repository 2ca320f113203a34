"""Arguments that several commands share: how they are declared, and how they are read."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from raftlab import labs
from raftlab.runs.run import Implementation, seeds_of
from raftlab.safe_text import printable
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Sandbox
from raftlab.schedules import SCHEDULES
from raftlab.submission import combine
from raftlab.submission.source import SubmissionError
from raftlab.tools import check, own_code

OUTPUT_FOLDER = Path("raftlab-out")
"""The folder for traces of failing runs and for shortened scenarios, in the current folder."""


class CommandError(Exception):
    """A command cannot do what its arguments ask for. The message is a sentence for the user."""


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Add ``--impl``, ``--raft`` and ``--sandbox``, which :func:`submission` reads, and also ``--schedule`` and
    ``--no-preempt``."""
    parser.add_argument(
        "--impl",
        type=Path,
        metavar="PATH",
        help="your raft.py, or the folder that contains it (default: the current folder)",
    )
    parser.add_argument(
        "--raft",
        type=Path,
        metavar="PATH",
        help="lab 3 only: run your kv.py on this raft.py (or the one in this folder) instead of your own raft.py",
    )
    parser.add_argument(
        "--sandbox",
        choices=levels.CHOICES,
        help="how to confine the code (default: none for your own code in or below the current folder; for any other "
        "code, the strictest level that works on this machine)",
    )
    parser.add_argument(
        "--schedule",
        choices=SCHEDULES,
        metavar="NAME",
        help=f"how the simulator preempts threads: {', '.join(SCHEDULES)} (default: the seed chooses one)",
    )
    parser.add_argument(
        "--no-preempt",
        dest="schedule",
        action="store_const",
        const="none",
        help="short for --schedule none: the simulator switches to another thread only when the running one waits",
    )


@dataclass(frozen=True, slots=True)
class Target:
    """The code that a command runs.

    Attributes:
        path: The submission.
        sandbox: How its code is confined.
        raft: The Raft that runs below its kv.py, if that is not the submission's own.
        copy: A copy of the code, which the hosts load. ``None``: they load the submission itself.
    """

    path: Path
    sandbox: Sandbox = levels.NONE
    raft: Path | None = None
    copy: Path | None = None

    def implementation(self, races: bool = False) -> Implementation:
        return Implementation(self.path, self.sandbox, races, self.raft, self.copy)

    def checked_implementation(self, races: bool = False) -> Implementation:
        """Like :meth:`implementation`, but the first call returns the implementation that the contract check of this
        command has used, if there is one. Its host is already running."""
        checked = None if races or self.copy is None else _checked.pop(self.copy, None)
        return checked or self.implementation(races)


# The implementations that have passed the contract check and have not been used yet, by the copy of the submission.
_checked: dict[Path, Implementation] = {}


def submission(arguments: argparse.Namespace, lab: str, with_pdb: bool = False) -> Target:
    """The submission that ``--impl`` names, and its sandbox, after the contract check has passed; see :func:`target`.

    Args:
        arguments: The arguments of a command that has called :func:`add_submission`.
        lab: The lab whose methods the submission must have.
        with_pdb: Whether the command opens a debugger at a ``breakpoint()``.

    Raises:
        CommandError: The contract check found problems. The message lists them.
        raftlab.sandbox.levels.SandboxUnavailable: The sandbox that the code needs does not work here.
    """
    found = target(arguments, lab)
    if with_pdb and found.sandbox.level != "none":
        raise CommandError(
            f"--pdb runs the code without a sandbox, and {found.path} is not your own working folder: add --sandbox none "
            "if you trust it"
        )
    implementation = found.implementation()
    arguments.cleanup.callback(implementation.close)
    problems = check.check_implementation(implementation, [lab])
    if with_pdb:
        # The check runs student code without a terminal, so it reports each breakpoint() that the code reaches.
        problems = [problem for problem in problems if "breakpoint()" not in problem.text]
    if problems:
        lines = []
        for problem in problems:
            lines.append(problem.text)
            lines += [f"  at {problem.where}"] if problem.where else []
            lines += [f"  read: {problem.handout}"] if problem.handout else []
        raise CommandError("\n".join(lines))
    assert found.copy is not None
    _checked[found.copy] = implementation
    return found


def target(arguments: argparse.Namespace, lab: str | None = None) -> Target:
    """The submission that ``--impl`` names, and its sandbox.

    This function copies the submission's files, and the command uses only the copy. So the files can be edited while the
    command runs. The copy is deleted when the command ends (``arguments.cleanup``).

    Args:
        arguments: The arguments of a command that has called :func:`add_submission`.
        lab: The lab that is tested. ``None``: several labs.

    Raises:
        CommandError: There is no submission, or it cannot be read, or the lab has no use for ``--raft``.
        raftlab.sandbox.levels.SandboxUnavailable: The sandbox that the code needs does not work here.
    """
    impl: Path = arguments.impl or (Path("raft.py") if Path("raft.py").exists() else Path("."))
    raft: Path | None = arguments.raft
    if raft is not None and lab is not None and not labs.find(lab).has("service"):
        raise CommandError(f"--raft is for lab 3: lab {lab} tests your own Raft")
    try:
        sandbox = _sandbox([impl] if raft is None else [combine.service_file(impl), raft], arguments.sandbox)
    except SubmissionError as exc:
        raise CommandError(str(exc)) from None
    folder = Path(tempfile.mkdtemp(prefix="raftlab-"))
    cleanup: contextlib.ExitStack = arguments.cleanup
    cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)  # readable in a sandbox, which may run as another user
    try:
        if raft is None:
            return Target(impl, sandbox, copy=combine.copy(impl, folder))
        combine.combine(impl, raft, folder)
    except SubmissionError as exc:
        raise CommandError(f"{exc}\n  read: handouts/setup.md#first-run") from None
    return Target(impl, sandbox, raft, folder)


def _sandbox(paths: list[Path], choice: str | None) -> Sandbox:
    """The sandbox for the code at ``paths``: the one that ``--sandbox`` names. By default, the user's own code runs
    without a sandbox."""
    if choice is not None:
        return levels.choose(choice, trusted=True)
    try:
        foreign = next((path for path in paths if not own_code.is_own(path)), None)
        if foreign is None:
            return levels.NONE
    except SubmissionError:
        return levels.NONE  # there is nothing to run; the contract check reports this
    sandbox = levels.choose("auto", trusted=True)
    why = f", as {sandbox.reason}" if sandbox.reason else ""
    text = f"{foreign} is not your own working folder, so its code runs in a sandbox ({sandbox.level}{why})"
    print(f"raftlab: {printable(text)}", file=sys.stderr)
    return sandbox


def add_time_limit(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add ``--for``, which :func:`seconds` reads."""
    parser.add_argument("--for", dest="time", default="60s", metavar="TIME", help=help_text)


def seconds(arguments: argparse.Namespace) -> float:
    """Convert the value of ``--for`` to seconds: ``90``, ``90s``, ``5m`` or ``1h``. Raises :class:`CommandError`."""
    text: str = arguments.time
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise CommandError(f"--for takes a time such as 90s, 5m or 1h, not {text!r}")
    return int(number) * units[unit]


def seeds(text: str) -> range:
    """The seeds that the value of ``--seeds`` means: ``20`` means 0 to 19, ``40:60`` means 40 to 59. Raises
    :class:`CommandError`."""
    try:
        return seeds_of(text)
    except ValueError as exc:
        raise CommandError(str(exc)) from None
