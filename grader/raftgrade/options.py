"""The options of `raftgrade`, and the settings that they mean."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from raftgrade import __version__
from raftgrade.plan import NETWORKS, CannotStart, Settings, parse_labs
from raftgrade.proof.kill_rates import Settings as ProofSettings
from raftgrade.rubric import Rubric
from raftgrade.stats import Sequential, until
from raftlab import command_line
from raftlab.safe_text import printable
from raftlab.sandbox import levels

FORMATS = ("table", "csv", "json", "junit", "github", "gradescope", "canvas", "moodle", "html")


def parser() -> argparse.ArgumentParser:
    made = command_line.Parser(
        prog="raftgrade",
        description="Grade Raft submissions with raftlab's staged tests.",
        epilog=command_line.EXIT_CODES,
    )
    made.add_argument("--version", action="version", version=f"raftgrade {__version__}")
    commands = made.add_subparsers(
        dest="command", required=True, metavar="run | report | rubric | gradescope-zip | proof | soak"
    )
    _run(commands.add_parser("run", help="grade submissions", description="Grade submissions."))
    _report(
        commands.add_parser(
            "report",
            help="show a report in any format",
            description="Show the report in DIR, finished or partial, in any format.",
        )
    )
    _soak(
        commands.add_parser(
            "soak",
            help="run the suites for hours",
            description="Run the suites and random scenarios for hours, to find false alarms, memory leaks and leftover "
            "processes.",
        )
    )
    commands.add_parser("rubric", help="print the default rubric", description="Print the default rubric (TOML).")
    zip_ = commands.add_parser(
        "gradescope-zip", help="make an autograder for Gradescope", description="Make an autograder for Gradescope."
    )
    zip_.add_argument("out", metavar="OUT.zip", help="write the autograder to this file")
    zip_.add_argument("--labs", metavar="2A[,2B]", help="labs to grade (default: all)")
    zip_.add_argument("--runs", type=int, default=20, metavar="N", help="run each test N times in sim (default: 20)")
    zip_.add_argument(
        "--network", choices=[*NETWORKS, "both"], default="sim", help="where to run the tests (default: sim)"
    )
    zip_.add_argument("--rubric", metavar="FILE", help="compute the points by this rubric (see raftgrade rubric)")
    text = "Put each known bug of a bank into the reference solution, and measure how reliably the suites catch it."
    _proof(commands.add_parser("proof", help="measure which known bugs the suites catch", description=text))
    return made


def _proof(proof: argparse.ArgumentParser) -> None:
    proof.add_argument(
        "bank",
        nargs="?",
        default="tests",
        metavar="BANK",
        help="the folder with the bugs, *.patch files (default: tests)",
    )
    proof.add_argument(
        "--reference",
        default="solutions",
        metavar="PATH",
        help="the raft.py that the patches apply to, or its folder (default: solutions)",
    )
    proof.add_argument("--labs", metavar="2A[,2B]", help="only the bugs of these labs (default: all)")
    proof.add_argument(
        "--bugs", metavar="NAME[,NAME]", help="only these bugs, such as ps-no-votedfor or 2c/ps-no-votedfor"
    )
    proof.add_argument(
        "--seeds", type=int, default=20, metavar="N", help="run the suite with N seeds for each bug (default: 20)"
    )
    proof.add_argument(
        "--hard-seeds",
        type=int,
        default=200,
        metavar="N",
        help="if a hard bug is not caught, go on up to N seeds (default: 200)",
    )
    proof.add_argument("--jobs", type=int, metavar="N", help="run N passes in parallel (default: one per processor)")
    proof.add_argument(
        "--out", default="raftgrade-proof", metavar="DIR", help="keep the results in DIR (default: raftgrade-proof)"
    )
    proof.add_argument(
        "--soak",
        action="append",
        metavar="DIR",
        help="with --page: report the false alarms of this soak (may be repeated)",
    )
    proof.add_argument("--page", metavar="FILE", help="write the results as a page of Markdown")


def proof_settings(arguments: argparse.Namespace) -> ProofSettings:
    """The settings of a proof. Raises :class:`CannotStart`."""
    for option in ("seeds", "hard_seeds", "jobs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise CannotStart(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if arguments.hard_seeds < arguments.seeds:
        raise CannotStart(f"--hard-seeds ({arguments.hard_seeds}) must not be below --seeds ({arguments.seeds})")
    if arguments.soak is not None and arguments.page is None:
        raise CannotStart("--soak goes with --page")
    return ProofSettings(arguments.seeds, arguments.hard_seeds, arguments.jobs or command_line.processors())


def proof_command(arguments: argparse.Namespace) -> str:
    """The command that repeats a proof, without options that do not change its figures."""
    words = ["raftgrade", "proof"]
    words += [arguments.bank] if arguments.bank != "tests" else []
    for option, default in (
        ("reference", "solutions"),
        ("labs", None),
        ("bugs", None),
        ("seeds", 20),
        ("hard_seeds", 200),
    ):
        value = getattr(arguments, option)
        words += [f"--{option.replace('_', '-')}", str(value)] if value != default else []
    words += ["--soak", "DIR"] * len(arguments.soak or [])
    return shlex.join([*words, "--page", "FILE"])


def _run(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a raft.py; a folder or zip file with one; a folder of such folders and zip files; a git URL "
        "(https://…#commit); a .txt file that lists paths and URLs; or a .csv file with the columns id, name and path",
    )
    run.add_argument("--labs", metavar="2A[,2B]", help="labs to grade (default: all)")
    run.add_argument(
        "--network",
        choices=[*NETWORKS, "both"],
        default="both",
        help="run in the simulator (sim), on the real network (rpyc), or both (default)",
    )
    runs = run.add_mutually_exclusive_group()
    runs.add_argument("--runs", type=int, metavar="N", help="run each test N times in sim (default: 20)")
    runs.add_argument(
        "--until-sure",
        metavar="good=.99,bad=.90,max=N",
        help="run each test in sim until it is clear whether it passes reliably, at most N times",
    )
    run.add_argument(
        "--rpyc-runs",
        type=int,
        metavar="N",
        help="run each test N times on the real network (default: 1; with --network rpyc, --runs sets it too)",
    )
    run.add_argument("--jobs", type=int, metavar="N", help="make N runs in parallel (default: two per processor)")
    run.add_argument(
        "--sandbox",
        choices=levels.CHOICES,
        default="auto",
        help="how student code is confined: the best sandbox that works here (auto, the default), only bubblewrap (bwrap), "
        "or not at all (none)",
    )
    run.add_argument(
        "--out", default="raftgrade-out", metavar="DIR", help="write the report to DIR (default: raftgrade-out)"
    )
    run.add_argument("--fresh", action="store_true", help="do not reuse the results of an earlier report in DIR")
    run.add_argument("--seed", type=int, default=0, metavar="BASE", help="the first seed (default: 0)")
    run.add_argument("--rubric", metavar="FILE", help="compute the points by this rubric (see raftgrade rubric)")
    run.add_argument("--late", metavar="CSV", help="late submissions, with the columns submission and days (or hours)")
    run.add_argument(
        "--engine",
        choices=["local", "dask"],
        default="local",
        help="run on this machine (local, the default) or on a Dask cluster",
    )
    run.add_argument("--scheduler", metavar="ADDRESS", help="the Dask scheduler, such as tls://host:8786")
    for name, what in (("ca", "authority"), ("cert", "certificate"), ("key", "key")):
        run.add_argument(f"--tls-{name}", metavar="FILE", help=f"{what} for a tls:// scheduler (PEM)")


def _report(report: argparse.ArgumentParser) -> None:
    report.add_argument("dir", metavar="DIR", help="the folder that `raftgrade run` wrote")
    report.add_argument(
        "--format", choices=FORMATS, default="table", metavar="FORMAT", help=f"one of {', '.join(FORMATS)}"
    )
    report.add_argument("--template", metavar="CSV", help="canvas, moodle: the exported gradebook to fill in")
    report.add_argument(
        "--column", metavar="TITLE", help="canvas, moodle: the column to fill in (default: the only one that fits)"
    )
    report.add_argument("--student", metavar="NAME", help="only this submission, as its author may see it")
    report.add_argument("--rubric", metavar="FILE", help="compute the points again by this rubric")
    report.add_argument("--late", metavar="CSV", help="compute the points again with these late submissions")
    report.add_argument("-o", "--output", metavar="FILE", help="write to FILE instead of the terminal")


def _soak(soak: argparse.ArgumentParser) -> None:
    soak.add_argument("paths", nargs="*", metavar="IMPL", help="implementations to run, given as for `raftgrade run`")
    soak.add_argument(
        "--labs",
        metavar="2A[,2B]",
        help="labs to run (default: all); an implementation stops at the first lab that it cannot do",
    )
    soak.add_argument("--network", default="sim", metavar="sim|rpyc|sim,rpyc", help="where to run (default: sim)")
    soak.add_argument(
        "--hours", type=float, metavar="H", help="start no new block after H hours (default: run until Ctrl-C)"
    )
    soak.add_argument("--passes", type=int, metavar="N", help="stop when each test, and the fuzzing, has had N seeds")
    soak.add_argument("--seed", type=int, default=0, metavar="FIRST", help="the first seed (default: 0)")
    soak.add_argument("--jobs", type=int, metavar="N", help="make N runs in parallel (default: two per processor)")
    soak.add_argument(
        "--fuzz", action=argparse.BooleanOptionalAction, default=True, help="run random scenarios in sim too (default)"
    )
    soak.add_argument(
        "--hog", action="store_true", help="during rpyc runs, keep every processor busy with an endless loop"
    )
    soak.add_argument(
        "--sandbox", choices=levels.CHOICES, default="auto", help="as for `raftgrade run` (default: auto)"
    )
    soak.add_argument(
        "--out", metavar="DIR", help="keep the log in DIR; given the same DIR again, the soak goes on where it stopped"
    )
    soak.add_argument("--show", metavar="DIR", help="show the log in DIR, and run nothing")


def settings(arguments: argparse.Namespace, rubric: Rubric) -> Settings:
    """The settings of a grading run. Raises :class:`CannotStart` or :class:`raftlab.labs.UnknownLab`."""
    for option in ("runs", "rpyc_runs", "jobs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise CannotStart(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if arguments.seed < 0:
        raise CannotStart(f"--seed must be 0 or more, not {arguments.seed}")
    sure = _sure(arguments)
    chosen = parse_labs(arguments.labs)
    networks = list(NETWORKS) if arguments.network == "both" else [arguments.network]
    rpyc_runs = arguments.rpyc_runs
    if rpyc_runs is None:
        rpyc_runs = arguments.runs if arguments.network == "rpyc" and arguments.runs else 1
    runs = {"sim": sure.most if sure is not None else arguments.runs or 20, "rpyc": rpyc_runs}
    return Settings(
        labs=chosen,
        networks=networks,
        runs={network: runs[network] for network in networks},
        seed=arguments.seed,
        # Runs on the real network mostly wait, so two per processor finish sooner than one. Simulated runs have a lower
        # priority (see jobs.py).
        jobs=arguments.jobs or 2 * command_line.processors(),
        until=sure,
        hidden=rubric.hidden.seeds() if rubric.hidden.runs and "sim" in networks else None,
    )


def _sure(arguments: argparse.Namespace) -> Sequential | None:
    if arguments.until_sure is None:
        return None
    if arguments.network == "rpyc":
        raise CannotStart("--until-sure applies to runs in sim, and --network rpyc has none")
    try:
        return until(arguments.until_sure)
    except ValueError as exc:
        raise CannotStart(str(exc)) from None


def read_text_file(path: str) -> str:
    """The text of the file that an option names. Raises :class:`CannotStart`."""
    shown = printable(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise CannotStart(f"{shown}: expected text in UTF-8; this is something else") from None
    except OSError as exc:
        raise CannotStart(f"{shown} cannot be read: {exc.strerror or exc}") from None
