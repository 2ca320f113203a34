"""The front door: ``raftgrade run PATH…`` grades, ``raftgrade report DIR`` shows a report again.

Exit codes: 0 everything passed · 1 a run failed · 2 something could not be judged, a submission was refused,
the report is not complete, or the command line was wrong · 130 stopped with Ctrl-C (143 SIGTERM, 129 SIGHUP),
with what was done so far in the report.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from raftgrade import __version__, grade, store, submissions, table
from raftgrade.commands import Commands, RaftlabCommands
from raftgrade.intake import code, still_holds, take_in
from raftgrade.plan import NETWORKS, Listed, Settings, expect
from raftgrade.results import Report, exit_code
from raftgrade.text import count, printable
from raftlab import catalogue, confine, labs

CANNOT = 2


@dataclass(frozen=True, slots=True)
class Tools:
    """What the grader takes from raftlab; tests put their own in its place."""

    commands: Commands = field(default_factory=RaftlabCommands)
    catalogue: Callable[[str], Sequence[Listed]] = catalogue.tests
    confine: Callable[[str], confine.Sandbox] = confine.choose


class CannotStart(Exception):
    """The command line asks for something that cannot be done. The message says what."""


class _Parser(argparse.ArgumentParser):
    """One clear sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(CANNOT, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None, tools: Tools | None = None) -> int:
    """Run the command line ``argv``. Returns the exit code; raises ``SystemExit`` where argparse does."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character gets an escape, not an exception.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "report":
            return _report(Path(arguments.dir))
        return _run(arguments, tools or Tools())
    except (CannotStart, store.NotOurs, submissions.BadPath, labs.UnknownLab, confine.CannotConfine) as exc:
        print(f"raftgrade: {printable(str(exc))}", file=sys.stderr)
        return CANNOT
    except BrokenPipeError:
        # Whoever read our output has seen enough (head, less). Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CANNOT
    except OSError as exc:
        print(f"raftgrade: the report cannot be written: {printable(str(exc))}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        return 130
    except Exception:
        # Python's own exit code for this is 1, and 1 says that a submission failed.
        traceback.print_exc()
        print("raftgrade: this is a fault of raftgrade, not of a submission", file=sys.stderr)
        return CANNOT


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="raftgrade",
        description="Grade Raft submissions with raftlab's staged tests.",
        epilog="exit codes: 0 all passed; 1 something failed; 2 could not judge, a submission was refused, "
        "or the command line was wrong; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"raftgrade {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | report")
    run = commands.add_parser("run", help="grade submissions", description="Grade submissions.")
    run.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a raft.py, a folder or a zip file with one, a folder of these, a git URL (https://…#commit), a list of all "
        "these (.txt), or a table with the columns id, name and path (.csv)",
    )
    run.add_argument("--labs", metavar="2A[,2B]", help="labs to grade (default: all)")
    run.add_argument("--network", choices=[*NETWORKS, "both"], default="both", help="default: both")
    run.add_argument("--runs", type=int, metavar="N", help="runs of each test in sim (default: 20)")
    run.add_argument(
        "--rpyc-runs",
        type=int,
        metavar="N",
        help="runs of each test on the real network (default: 1; with --network rpyc, --runs counts too)",
    )
    run.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: two per processor)")
    run.add_argument(
        "--sandbox",
        choices=confine.ASKED,
        default="auto",
        help="walls around student code: the best there is (auto, the default), bubblewrap or nothing (bwrap), none",
    )
    run.add_argument("--out", default="raftgrade-out", metavar="DIR", help="default: raftgrade-out")
    run.add_argument("--fresh", action="store_true", help="do everything again, also what an earlier report in DIR has")
    run.add_argument("--seed", type=int, default=0, metavar="BASE", help="the first seed (default: 0)")
    report = commands.add_parser(
        "report", help="show a report again", description="Show the report in DIR, finished or partial."
    )
    report.add_argument("dir", metavar="DIR")
    return parser


def _report(folder: Path) -> int:
    report = store.read(folder)
    print(table.render(report))
    return exit_code(report)


def _run(arguments: argparse.Namespace, tools: Tools) -> int:
    settings = _settings(arguments)
    settings = msgspec.structs.replace(settings, sandbox=tools.confine(arguments.sandbox))
    out = Path(arguments.out)
    found = submissions.find(arguments.paths, ignore=out)
    if found.skipped:
        names = ", ".join(printable(path.name) for path in found.skipped)
        print(
            f"raftgrade: no raft.py in {count(len(found.skipped), 'folder')}, left out: {names}",
            file=sys.stderr,
        )
    tests, left_out = expect(settings, {lab: tools.catalogue(lab) for lab in settings.labs})
    if not tests:
        raise CannotStart(f"no test of {', '.join(settings.labs)} runs on {' or '.join(settings.networks)}")
    with store.Store.create(out) as folder:
        intake = take_in(found, tests, settings, folder)
        plan = Report(
            tool=f"raftgrade {__version__}",
            code=code(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings,
            left_out=left_out,
            submissions=intake.submissions,
        )
        kept = [] if arguments.fresh else still_holds(plan, folder.earlier)
        known = [*kept, *intake.refused]
        stay = {entry.submission for entry in kept}
        folder.begin(known, {item.slug for item in intake.submissions if item.name in stay})
        if kept:
            had = f"{count(len(kept), 'outcome')} of the report in {printable(str(out))}"
            print(f"raftgrade: kept {had}, nothing has changed for them; --fresh does all again", file=sys.stderr)
        started = time.monotonic()
        report, signal_number = grade.grade(
            plan, tests, intake.paths, tools.commands, folder, sys.stderr, started, known
        )
    shown = printable(str(out))
    if signal_number:
        so_far = f"{report.done} of {count(report.planned, 'run')} are in {shown}/{store.REPORT}"
        again = f"raftgrade report {shown} shows them"
        print(f"raftgrade: interrupted; {so_far}: {again}", file=sys.stderr)
        return 128 + signal_number
    print(table.render(report))
    print(f"raftgrade: the report is in {shown}/{store.REPORT}", file=sys.stderr)
    return exit_code(report)


def _settings(arguments: argparse.Namespace) -> Settings:
    """What was asked for. Raises :class:`CannotStart` or :class:`raftlab.labs.UnknownLab`."""
    for option in ("runs", "rpyc_runs", "jobs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise CannotStart(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if arguments.seed < 0:
        raise CannotStart(f"--seed must be 0 or more, not {arguments.seed}")
    asked = arguments.labs.split(",") if arguments.labs is not None else list(labs.LABS)
    chosen = {labs.find(name.strip()).name for name in asked}
    networks = list(NETWORKS) if arguments.network == "both" else [arguments.network]
    rpyc_runs = arguments.rpyc_runs
    if rpyc_runs is None:
        rpyc_runs = arguments.runs if arguments.network == "rpyc" and arguments.runs else 1
    runs = {"sim": arguments.runs or 20, "rpyc": rpyc_runs}
    return Settings(
        labs=[name for name in labs.LABS if name in chosen],
        networks=networks,
        runs={network: runs[network] for network in networks},
        seed=arguments.seed,
        # Runs on the real network mostly wait, so two for each processor end sooner than one. The simulator's runs
        # step aside for them (see jobs.py).
        jobs=arguments.jobs or 2 * (os.cpu_count() or 1),
    )
