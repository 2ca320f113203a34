"""`raftlab play`: a cluster of the student's own servers, live in the browser."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path

from raftlab import labs
from raftlab.command_line import PASSED
from raftlab.play.page import page
from raftlab.play.server import PlayServer
from raftlab.play.session import Refused, Session
from raftlab.runs import names
from raftlab.runs.run import Implementation
from raftlab.runs.scenario import Scenario
from raftlab.submission import starts
from raftlab.tools.arguments import OUTPUT_FOLDER, CommandError, add_submission, submission
from raftlab.tools.view import has_screen

_MOST_SERVERS = 9  # more servers do not fit into the picture
_MOST_CLERKS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    first = next(iter(labs.LABS))
    parser.add_argument(
        "what", nargs="?", default=first, metavar="LAB", help=f"the lab, or a scenario's file (default: {first})"
    )
    add_submission(parser)
    parser.add_argument("--solution", action="store_true", help="play with the reference solution (for lectures)")
    parser.add_argument(
        "--servers", type=int, default=0, metavar="N", help=f"how many servers, 1 to {_MOST_SERVERS} (default: 5)"
    )
    parser.add_argument(
        "--members",
        type=int,
        default=0,
        metavar="N",
        help="labs 2E to 2G: how many servers vote at first (default: all)",
    )
    parser.add_argument("--clerks", type=int, default=2, metavar="N", help="lab 3: how many clerks (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the run (default: 0)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="the port to listen on (default: any)")
    parser.add_argument("--no-open", action="store_true", help="print the page's address, but do not open it")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until the user presses Ctrl-C. Returns 0."""
    scenario = _scenario(arguments)
    if arguments.solution:
        _choose_solution(arguments)
    target = submission(arguments, scenario.lab)

    def read() -> Implementation:
        nonlocal target
        try:
            target = submission(arguments, scenario.lab)
        except CommandError as exc:
            raise Refused(str(exc)) from None
        return target.checked_implementation()

    impl = target.checked_implementation()
    try:
        session = Session(impl, scenario, read)
    except Refused as exc:
        impl.close()
        raise CommandError(str(exc)) from None
    try:
        code = "the reference solution" if arguments.solution else os.path.relpath(target.path)
        play(session, code, OUTPUT_FOLDER, arguments.port, not arguments.no_open)
    finally:
        session.close()
        session.impl.close()
    return PASSED


def play(session: Session, code: str, out: Path, port: int, opened: bool) -> None:
    """Serve a session until the user presses Ctrl-C, and then save it.

    Args:
        session: The session.
        code: The name of the submission, as the page shows it.
        out: The folder for saved sessions.
        port: The port to listen on; 0: any that is free.
        opened: Whether to open the page in a browser.

    Raises:
        CommandError: The port cannot be used.
        OSError: The session cannot be saved.
    """
    html, policy = page({**session.info, "impl": code})
    try:
        server = PlayServer(session, html, policy, out, port)
    except (OSError, OverflowError) as exc:
        raise CommandError(f"port {port} cannot be used: {getattr(exc, 'strerror', None) or exc}") from None
    for ended in (signal.SIGTERM, signal.SIGHUP):  # such as when the terminal is closed
        signal.signal(ended, signal.default_int_handler)
    try:
        print(f"play at {server.url}")
        print("Only your own browser can use this address. Press Ctrl-C here to end.")
        sys.stdout.flush()
        if opened and not (has_screen() and webbrowser.open(server.url)):
            print("found no browser to open it in: open that address yourself")
        server.serve()
    except KeyboardInterrupt:
        if server.unsaved:
            print(f"\nwhat you did is in {server.save()}")
    finally:
        server.close()


def _scenario(arguments: argparse.Namespace) -> Scenario:
    """The session to begin with: the one in a file, or a new one."""
    path = Path(arguments.what)
    if path.suffix == ".txt" or path.is_file():
        found = names.read(path)
        return replace(found, schedule=arguments.schedule or found.schedule)
    lab = labs.find(arguments.what)
    servers, members, clerks = arguments.servers or 5, arguments.members, arguments.clerks
    if not 1 <= servers <= _MOST_SERVERS:
        raise CommandError(f"--servers takes a number from 1 to {_MOST_SERVERS}, not {servers}")
    if members and not lab.has("membership"):
        raise CommandError(f"--members is for labs 2E to 2G, in which the members change, not for lab {lab.name}")
    if not 0 <= members <= servers:
        raise CommandError(f"--members takes a number from 1 to {servers}, not {members}")
    if not 1 <= clerks <= _MOST_CLERKS:
        raise CommandError(f"--clerks takes a number from 1 to {_MOST_CLERKS}, not {clerks}")
    if arguments.seed < 0:
        raise CommandError(f"--seed takes a number of 0 or more, not {arguments.seed}")
    service = lab.has("service")
    return Scenario(
        lab.name, f"play_{lab.name}", arguments.seed, servers, schedule=arguments.schedule or "none", members=members,
        clerks=clerks if service else 0, max_state=3000 if service else 0,
    )  # fmt: skip


def _choose_solution(arguments: argparse.Namespace) -> None:
    """Make the command run the reference solution, which is our own code and needs no sandbox."""
    if arguments.impl is not None:
        raise CommandError("--solution and --impl name two different programs: give one of them")
    try:
        folder = starts.root() / "solutions"
    except starts.NoStart as exc:
        raise CommandError(str(exc)) from None
    if not (folder / "raft.py").is_file():
        raise CommandError("this installation of raftlab has no solutions")
    arguments.impl = folder
    arguments.sandbox = arguments.sandbox or "none"
