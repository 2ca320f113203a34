"""The reception: ``raftlab new | test | replay | shrink | diff | fuzz | view | labs``.

Turns the command line into calls, and whatever goes wrong into one sentence. Exit codes: 0 all passed; 1
something failed; 2 could not be judged, or bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from raftlab import __version__, command_line, labs
from raftlab.harness.trace import BadTrace, TraceFilter
from raftlab.runs import names
from raftlab.runs.run import NETWORKS, seeds_of
from raftlab.suites import catalogue
from raftlab.tools import check, determinism, diff, fuzz, new, replay, shrink_report, view
from raftlab.tools import test as test_command
from raftlab.tools.test_progress import ProgressBoard
from raftlab.viewer import page

OUT = Path("raftlab-out")


class CannotDo(Exception):
    """The command line asks for something that cannot be done. The message is one sentence."""


REFUSALS = (
    CannotDo,
    new.CannotStart,
    test_command.NothingToRun,
    names.BadName,
    view.BadRequest,
    page.CannotShow,
    BadTrace,
    catalogue.UnknownTest,
    labs.UnknownLab,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``. Returns the exit code; raises ``SystemExit`` where argparse does."""
    command_line.tolerate_narrow_terminals()
    arguments = _parser().parse_args(argv)
    return command_line.run("raftlab", lambda: arguments.run(arguments), REFUSALS, cannot_write="")


def _parser() -> argparse.ArgumentParser:
    parser = command_line.Parser(
        prog="raftlab",
        description="Learn Raft by writing it.",
        epilog=command_line.EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"raftlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    make = commands.add_parser("new", help="make a folder to work in", description="Make a folder to work in.")
    make.add_argument("dir", type=Path, metavar="DIR")
    make.add_argument("--from", dest="start", default="", metavar="LAB", help="join late: the labs before are solved")
    make.add_argument("--force", action="store_true", help="overwrite the starter files that are there")
    make.set_defaults(run=_new)

    test = commands.add_parser("test", help="run a lab's tests", description="Run a lab's tests.")
    test.add_argument("lab", metavar="LAB", help="2A, ...: see `raftlab labs`")
    _add_impl(test)
    test.add_argument("--network", choices=[*NETWORKS, "both"], default="sim", help="default: sim")
    test.add_argument("--seeds", default="1", metavar="N or A:B", help="runs of each test (default: 1, seed 0)")
    test.add_argument("-k", dest="name", default="", metavar="NAME", help="only tests with NAME in their name or title")
    test.add_argument("--pdb", action="store_true", help="stop at breakpoint() and at failures, with a prompt (sim)")
    test.add_argument("--check-determinism", action="store_true", help="every run twice: is it the same one? (sim)")
    test.set_defaults(run=_test)

    again = commands.add_parser("replay", help="one run again, event for event", description="Show one run again.")
    again.add_argument("name", metavar="TEST@SEED", help="as in initial_election@7, fuzz_2C@7, or a scenario's file")
    _add_impl(again)
    again.add_argument("--network", choices=NETWORKS, default="sim", help="default: sim")
    again.add_argument("--since", type=float, default=0.0, metavar="T", help="show nothing before (seconds)")
    again.add_argument("--until", type=float, default=math.inf, metavar="T", help="show nothing after (seconds)")
    again.add_argument("--server", default="", metavar="N[,N]", help="show only what touches these servers")
    again.add_argument("--topic", default="", metavar="WORD", help="show only this: crash, request_vote, a log topic")
    again.add_argument("--pdb", action="store_true", help="a prompt in your code: at --until T, in --server N (sim)")
    again.add_argument("--out", type=Path, metavar="FILE", help="write the trace there, all of it")
    again.set_defaults(run=_replay)

    less = commands.add_parser(
        "shrink", help="a failing run, as short as it gets", description="Shorten a failing run."
    )
    less.add_argument("name", metavar="TEST@SEED", help="as for replay")
    _add_impl(less)
    less.add_argument("--for", dest="time", default="60s", metavar="TIME", help="search so long (default: 60s)")
    less.add_argument("--out", type=Path, metavar="FILE", help=f"the scenario goes there (default: into {OUT}/)")
    less.set_defaults(run=_shrink)

    other = commands.add_parser(
        "diff", help="where a failing run parts from a passing one", description="Find the fork."
    )
    other.add_argument("name", metavar="TEST@SEED", help="as for replay")
    _add_impl(other)
    other.add_argument("--for", dest="time", default="60s", metavar="TIME", help="search so long (default: 60s)")
    other.set_defaults(run=_diff)

    wild = commands.add_parser("fuzz", help="random schedules until one fails", description="Try random schedules.")
    wild.add_argument("lab", nargs="?", default="", metavar="LAB", help="2A, ...: which faults (default: the first)")
    _add_impl(wild)
    wild.add_argument("--for", dest="time", default="60s", metavar="TIME", help="30s, 5m, 1h (default: 60s)")
    wild.add_argument("--seeds", default="", metavar="N or A:B", help="exactly these, however long it takes")
    wild.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one a processor)")
    wild.set_defaults(run=_fuzz)

    picture = commands.add_parser(
        "view", help="a run as a picture, in the browser", description="Show a run as a picture."
    )
    picture.add_argument("trace", type=Path, metavar="TRACE", help="from raftlab-out/, or `raftlab replay ... --out`")
    picture.add_argument("--out", type=Path, metavar="FILE", help="the page (default: beside the trace, as .html)")
    picture.add_argument("--no-open", action="store_true", help="only write the page")
    picture.add_argument("--since", type=float, default=0.0, metavar="T", help="only what came after (seconds)")
    picture.add_argument("--until", type=float, default=math.inf, metavar="T", help="only what came before (seconds)")
    picture.set_defaults(run=_view)

    ladder = commands.add_parser("labs", help="list the labs and their tests", description="List the labs.")
    ladder.set_defaults(run=_labs)
    return parser


def _add_impl(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--impl", type=Path, metavar="PATH", help="your raft.py or its folder (default: here)")
    parser.add_argument("--no-preempt", action="store_true", help="switch threads at blocking calls only (sim)")


def _new(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.dir
    lab = labs.find(arguments.start or next(iter(labs.LABS))).name
    for name in new.new(folder, arguments.force, lab):
        print(f"  {folder / name}")
    print(f"Your code goes into {folder / 'raft.py'}. Start here:  cd {folder} && raftlab test {lab}")
    return 0


def _test(arguments: argparse.Namespace) -> int:
    lab = labs.find(arguments.lab)
    seeds = _seeds(arguments.seeds)
    if arguments.pdb:
        if arguments.network != "sim":
            raise CannotDo("--pdb works in the simulator only: leave --network away")
        if len(seeds) > 1:
            raise CannotDo(f"--pdb wants one seed, as in --seeds {seeds.start}:{seeds.start + 1}")
    if arguments.check_determinism and (arguments.network != "sim" or arguments.pdb):
        raise CannotDo("--check-determinism works in the simulator only: leave --network and --pdb away")
    plan = test_command.plan(lab.name, arguments.network, arguments.name)
    impl = _impl(arguments, lab.name, arguments.pdb)
    order = test_command.Order(impl, lab.name, plan, arguments.network, seeds, not arguments.no_preempt, OUT)
    if arguments.check_determinism:
        return determinism.check(order)
    if arguments.pdb:
        return test_command.run_with_pdb(order)
    live = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns
    colour = live and not os.environ.get("NO_COLOR")
    return test_command.run(order, ProgressBoard(sys.stdout, lab.name, plan, len(seeds), live, colour, columns))


def _replay(arguments: argparse.Namespace) -> int:
    named = names.named(arguments.name, arguments.network, not arguments.no_preempt)
    numbers = [word.strip().upper().removeprefix("S") for word in arguments.server.split(",") if word]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise CannotDo(f"--server wants numbers, as in --server 0,2, not {arguments.server!r}")
    servers = frozenset(map(int, numbers)) if numbers else None
    look = TraceFilter(arguments.since, arguments.until, servers, arguments.topic)
    impl = _impl(arguments, named.info.lab, arguments.pdb)
    if arguments.pdb:
        if named.network != "sim" or arguments.out is not None:
            raise CannotDo("--pdb works in the simulator only, and writes no trace: leave --network and --out away")
        return replay.with_pdb(named, impl, look)
    return replay.replay(named, impl, arguments.out, look)


def _shrink(arguments: argparse.Namespace) -> int:
    named = names.named(arguments.name, "sim", not arguments.no_preempt)
    out: Path = arguments.out or OUT / f"{named.info.name}-{named.seed}.txt"
    return shrink_report.shrink(named, _impl(arguments, named.info.lab), _seconds(arguments.time), out)


def _diff(arguments: argparse.Namespace) -> int:
    named = names.named(arguments.name, "sim", not arguments.no_preempt)
    return diff.diff(named, _impl(arguments, named.info.lab), _seconds(arguments.time))


def _fuzz(arguments: argparse.Namespace) -> int:
    lab = labs.find(arguments.lab or next(iter(labs.LABS))).name
    seconds = _seconds(arguments.time)
    first, runs = 0, None
    if arguments.seeds:
        seeds = _seeds(arguments.seeds)
        first, runs, seconds = seeds.start, len(seeds), math.inf
    if arguments.jobs < 0:
        raise CannotDo(f"--jobs wants a number from 1 on, not {arguments.jobs}")
    impl = _impl(arguments, lab)
    jobs = arguments.jobs or command_line.processors()
    return fuzz.run(fuzz.Order(impl, lab, first, runs, seconds, jobs, not arguments.no_preempt, OUT))


def _seeds(text: str) -> range:
    try:
        return seeds_of(text)
    except ValueError as exc:
        raise CannotDo(str(exc)) from None


def _seconds(text: str) -> float:
    """``"90"``, ``"90s"``, ``"5m"``, ``"1h"``."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise CannotDo(f"--for wants a time, as in 90s, 5m or 1h, not {text!r}")
    return int(number) * units[unit]


def _view(arguments: argparse.Namespace) -> int:
    return view.view(arguments.trace, arguments.out, arguments.since, arguments.until, not arguments.no_open)


def _impl(arguments: argparse.Namespace, lab: str, pdb: bool = False) -> Path:
    """The submission, once it has passed the contract check. Raises :class:`CannotDo` with its problems."""
    impl: Path = arguments.impl or (Path("raft.py") if Path("raft.py").exists() else Path("."))
    problems = check.check(impl, [lab])
    if pdb:
        # The check runs student code where there is no terminal, so that a breakpoint() in __init__ ends it.
        problems = [problem for problem in problems if "breakpoint()" not in problem.text]
    if problems:
        told = []
        for problem in problems:
            told.append(problem.text)
            told += [f"  at {problem.where}"] if problem.where else []
            told += [f"  read: {problem.handout}"] if problem.handout else []
        raise CannotDo("\n".join(told))
    return impl


def _labs(arguments: argparse.Namespace) -> int:
    for lab in labs.LABS.values():
        tests = catalogue.tests(lab.name)
        print(f"{lab.name}  {lab.title}: {lab.adds} ({sum(info.points for info in tests)} points)")
        width = max(len(info.name) for info in tests)
        for info in tests:
            print(f"  {info.points:>2}  {info.name:<{width}}  {'+'.join(info.networks):<8}  {info.title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
