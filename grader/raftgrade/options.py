"""The options of `raftgrade`, and the settings that they stand for."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from raftgrade import __version__
from raftgrade.intake import our_own, roster
from raftgrade.plan import NETWORKS, CannotStart, Settings, default_jobs, parse_labs
from raftgrade.proof.kill_rates import Settings as ProofSettings
from raftgrade.reports import gradescope
from raftgrade.rubric import Rubric
from raftgrade.stats import Sequential, until
from raftlab import command_line, labs, operating_system
from raftlab.safe_text import printable
from raftlab.sandbox import levels

FORMATS = (
    *("table", "csv", "csv-tests", "json", "junit", "github", "gradescope", "prairielearn", "autolab"),
    *("canvas", "moodle", "html", "feedback"),
)


def parser() -> argparse.ArgumentParser:
    made = command_line.Parser(
        prog="raftgrade",
        description="Grade Raft submissions with raftlab's staged tests.",
        epilog=command_line.EXIT_CODES,
    )
    made.add_argument("--version", action="version", version=f"raftgrade {__version__}")
    commands = made.add_subparsers(
        dest="command",
        required=True,
        metavar="run | report | rubric | similarity | kit | gradescope-zip | proof | soak",
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
    _kit(
        commands.add_parser(
            "kit",
            help="make a version of raftlab for students, without the solutions",
            description="Make a wheel of raftlab that students install: everything that they need, without the solutions.",
        )
    )
    _similarity(
        commands.add_parser(
            "similarity",
            help="compare submissions with each other (needs compare50)",
            description="Rank the pairs of submissions that have the most code in common, with compare50.",
        )
    )
    zip_ = commands.add_parser(
        "gradescope-zip", help="make an autograder for Gradescope", description="Make an autograder for Gradescope."
    )
    zip_.add_argument("out", metavar="OUT.zip", help="write the autograder to this file")
    zip_.add_argument("--labs", metavar="2A[,2B]", help="labs to grade (default: all)")
    zip_.add_argument("--runs", type=int, default=20, metavar="N", help="run each test N times in sim (default: 20)")
    zip_.add_argument(
        "--network", choices=[*NETWORKS, "both"], default="sim", help="where to run the tests (default: sim)"
    )
    zip_.add_argument(
        "--sandbox", choices=levels.CHOICES, default="auto", help="as for `raftgrade run` (default: auto)"
    )
    zip_.add_argument("--rubric", metavar="FILE", help="compute the points with this rubric (see raftgrade rubric)")
    zip_.add_argument(
        "--raft", metavar="PATH|reference", help="lab 3 only: run every kv.py on this Raft, as for `raftgrade run`"
    )
    _visibility(zip_)
    text = "Put known bugs into the reference solution, one at a time, and measure how reliably the suites catch each one. "
    text += "With --mutants, do the same with small changes that a program generates, not with the known bugs."
    _proof(commands.add_parser("proof", help="measure which known bugs the suites catch", description=text))
    return made


def _visibility(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--visibility",
        choices=gradescope.VISIBILITIES,
        help="when Gradescope shows students the result and the tests (default: visible, at once)",
    )


def _kit(kit: argparse.ArgumentParser) -> None:
    kit.add_argument("out", metavar="DIR", help="write the wheel into this folder")
    kit.add_argument(
        "--starts",
        metavar="2C[,3A]",
        help="also let students start at these labs (raftlab new --from 2C); the kit then contains the solutions of the "
        "earlier labs (default: students start at the first lab)",
    )
    kit.add_argument(
        "--url", default="", metavar="URL", help="the folder from which students' workflows can download the wheel"
    )
    kit.add_argument(
        "--with-grader", action="store_true", help="add raftgrade, so that students' repositories can grade themselves"
    )


def _similarity(similarity: argparse.ArgumentParser) -> None:
    similarity.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="as for `raftgrade run`, or the folder of a report, to compare the submissions in it",
    )
    similarity.add_argument(
        "--starts",
        metavar="2C[,3A]",
        help="the labs at which students could start, as for `raftgrade kit` (default: the first)",
    )
    similarity.add_argument(
        "--archive",
        action="append",
        default=[],
        metavar="PATH",
        help="also compare with these submissions, such as last year's (may be repeated)",
    )
    similarity.add_argument(
        "--pairs", type=int, default=50, metavar="N", help="show the N most similar pairs (default: 50)"
    )
    similarity.add_argument(
        "--out",
        default="raftgrade-similarity",
        metavar="DIR",
        help="write the report to DIR (default: raftgrade-similarity)",
    )


def _proof(proof: argparse.ArgumentParser) -> None:
    proof.add_argument(
        "bank",
        nargs="?",
        default="tests",
        metavar="BANK",
        help="the folder with the bugs as *.patch files (default: tests)",
    )
    proof.add_argument(
        "--reference",
        default="solutions",
        metavar="PATH",
        help="the raft.py that the patches apply to, or its folder (default: solutions)",
    )
    proof.add_argument("--labs", metavar="2A[,2B]", help="try only the bugs of these labs (default: all)")
    proof.add_argument(
        "--bugs", metavar="NAME[,NAME]", help="try only these bugs, such as ps-no-votedfor or 2c/ps-no-votedfor"
    )
    proof.add_argument(
        "--seeds", type=int, default=20, metavar="N", help="run the suite with N seeds for each bug (default: 20)"
    )
    proof.add_argument(
        "--hard-seeds",
        type=int,
        default=200,
        metavar="N",
        help="if --seeds does not catch a bug that is marked as hard, continue with up to N seeds (default: 200)",
    )
    proof.add_argument("--jobs", type=int, metavar="N", help="run N suites in parallel (default: one per processor)")
    proof.add_argument(
        "--out", default="raftgrade-proof", metavar="DIR", help="keep the results in DIR (default: raftgrade-proof)"
    )
    proof.add_argument(
        "--soak",
        action="append",
        metavar="DIR",
        help="with --page: include the false alarms that `raftgrade soak --out DIR` recorded (may be repeated)",
    )
    proof.add_argument("--page", metavar="FILE", help="write the results as a page of Markdown")
    proof.add_argument(
        "--rules",
        action="store_true",
        help="run nothing; show each rule with the bug that breaks the rule and the test that catches the bug",
    )
    mutants = proof.add_argument_group(
        "mutants", "Instead of the known bugs, try mutants: small changes to the reference, generated by a program."
    )
    mutants.add_argument(
        "--mutants",
        action="store_true",
        help="measure which mutants the suites kill; with --page FILE, replace only the section about mutants in FILE",
    )
    mutants.add_argument(
        "--only", metavar="PATTERN", help="try only mutants with PATTERN in their name, such as start.lock-*"
    )
    mutants.add_argument("--sample", type=int, metavar="N", help="try only N mutants, drawn at random")
    mutants.add_argument(
        "--seed", type=int, default=0, metavar="S", help="with --sample: the seed of the random draw (default: 0)"
    )
    mutants.add_argument(
        "--net",
        action="store_true",
        help="also run surviving mutants of threading code on the real network (minutes per suite)",
    )


def proof_settings(arguments: argparse.Namespace) -> ProofSettings:
    """The settings of a proof. Raises :class:`CannotStart`."""
    for option in ("seeds", "hard_seeds", "jobs", "sample"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise CannotStart(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if not arguments.mutants and (arguments.only or arguments.sample or arguments.seed or arguments.net):
        raise CannotStart("--only, --sample, --seed and --net go with --mutants")
    if arguments.mutants and (arguments.bugs or arguments.soak):
        raise CannotStart("--bugs and --soak do not go with --mutants")
    if arguments.hard_seeds < arguments.seeds and not arguments.mutants:
        raise CannotStart(f"--hard-seeds ({arguments.hard_seeds}) must not be below --seeds ({arguments.seeds})")
    if arguments.soak is not None and arguments.page is None:
        raise CannotStart("--soak goes with --page")
    return ProofSettings(arguments.seeds, arguments.hard_seeds, arguments.jobs or operating_system.processors())


def proof_command(arguments: argparse.Namespace) -> str:
    """The command that repeats a proof, with only those options that affect its figures."""
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
    if arguments.mutants:
        words += [
            "--mutants",
            *(["--net"] if arguments.net else []),
            *(["--only", arguments.only] if arguments.only else []),
        ]
        words += ["--sample", str(arguments.sample), "--seed", str(arguments.seed)] if arguments.sample else []
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
    run.add_argument(
        "--labs", metavar="2A[,2B]", help="labs to grade (default: all; lab 3 only if a submission has a kv.py)"
    )
    run.add_argument(
        "--raft",
        metavar="PATH|reference",
        help="lab 3 only: run every kv.py on this raft.py (or folder), or on the reference solution, instead of the "
        "student's own Raft; a submission then needs no raft.py",
    )
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
        help="run each test in sim until it is clear whether it passes at least 99 %% (good) or at most 90 %% (bad) of the "
        "time, but no more than N times",
    )
    run.add_argument(
        "--rpyc-runs",
        type=int,
        metavar="N",
        help="run each test N times on the real network (default: 1; with --network rpyc, --runs also sets this number)",
    )
    run.add_argument(
        "--races",
        action="store_true",
        help="also look for races in sim, and list what is found as advice; takes up to twice as long",
    )
    run.add_argument(
        "--jobs", type=int, metavar="N", help="perform N runs in parallel in sim (default: one per processor)"
    )
    run.add_argument(
        "--rpyc-jobs",
        type=int,
        metavar="N",
        help="perform N runs in parallel on the real network, where they mostly wait (default: four times --jobs; with "
        "--network rpyc, --jobs also sets this number)",
    )
    run.add_argument(
        "--sandbox",
        choices=levels.CHOICES,
        default="auto",
        help="how to confine student code. bwrap: with bubblewrap. rlimits: with limits only; the code can still read "
        "this machine's files. none: not at all. auto (default): bwrap. If bubblewrap does not work here, auto means "
        "rlimits for the reference solution, and refuses to run any other code",
    )
    run.add_argument(
        "--out", default="raftgrade-out", metavar="DIR", help="write the report to DIR (default: raftgrade-out)"
    )
    run.add_argument("--fresh", action="store_true", help="do not reuse the results of an earlier report in DIR")
    run.add_argument("--seed", type=int, default=0, metavar="BASE", help="the first seed (default: 0)")
    run.add_argument("--rubric", metavar="FILE", help="compute the points with this rubric (see raftgrade rubric)")
    run.add_argument(
        "--roster",
        metavar="CSV",
        help="the students, with the columns id, name, login, email, group and extension (or any of them); an export from "
        "Canvas, Moodle, Gradescope or GitHub Classroom will do. Submissions are matched against the roster, and students "
        "without a submission are listed",
    )
    run.add_argument(
        "--single",
        action="store_true",
        help="PATH is one submission, whatever it contains: without a raft.py, it earns 0 points and the report says why",
    )
    _lateness(run)
    run.add_argument(
        "--engine",
        choices=["local", "dask"],
        default="local",
        help="run on this machine (local, the default) or on a Dask cluster",
    )
    run.add_argument("--scheduler", metavar="ADDRESS", help="the Dask scheduler, such as tls://host:8786")
    for name, what in (("ca", "the authority's certificate"), ("cert", "our certificate"), ("key", "our private key")):
        run.add_argument(f"--tls-{name}", metavar="FILE", help=f"{what} for a tls:// scheduler (PEM)")


def _lateness(command: argparse.ArgumentParser) -> None:
    """The options that decide how late each submission is, and which of a student's submissions counts."""
    command.add_argument(
        "--late",
        metavar="CSV",
        help="a file that says how late each submission is, with the columns submission (or id, ...) and days (or hours)",
    )
    command.add_argument(
        "--due",
        metavar="DATE",
        help="the deadline, such as 2026-11-30T23:59+01:00: submissions with a later date are late",
    )
    command.add_argument(
        "--attempts",
        choices=["best", "last"],
        help="which submission counts if a student has several: the best one or the last one (default: none of "
        "them, so the student gets no mark)",
    )
    command.add_argument(
        "--manual",
        metavar="CSV",
        help="points and comments given by hand, with the columns submission (or id, ...), test, points (7 sets them, +2 or "
        "-1 changes them) and comment; a row without a test is about the whole submission. `raftgrade run` keeps "
        "these points and comments when it grades again",
    )


def _report(report: argparse.ArgumentParser) -> None:
    report.add_argument("dir", metavar="DIR", help="the folder that `raftgrade run` wrote")
    report.add_argument(
        "--format", choices=FORMATS, default="table", metavar="FORMAT", help=f"one of {', '.join(FORMATS)}"
    )
    report.add_argument(
        "--template", metavar="CSV", help="with --format canvas or moodle: the exported gradebook to fill in"
    )
    report.add_argument(
        "--column", metavar="TITLE", help="with --template: the column to fill in (default: the only one that fits)"
    )
    report.add_argument(
        "--student", metavar="NAME", help="report only this submission, and leave out what its author must not see"
    )
    report.add_argument(
        "--anonymous",
        action="store_true",
        help="show a code instead of each name, for marking without knowing whose work it is; --student and --manual "
        "understand the codes",
    )
    _visibility(report)
    report.add_argument("--rubric", metavar="FILE", help="compute the points again with this rubric")
    _lateness(report)
    report.add_argument(
        "--key",
        metavar="FILE",
        help="check the report's signature with the key in FILE (for a report that was made on another machine)",
    )
    report.add_argument(
        "--unverified",
        action="store_true",
        help="show the report even if its signature is missing or wrong, and mark it as unverified",
    )
    report.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write to FILE instead of the terminal; with --format feedback, to a folder or .zip file of this name",
    )


def _soak(soak: argparse.ArgumentParser) -> None:
    soak.add_argument(
        "paths",
        nargs="*",
        metavar="IMPL",
        help="the implementations to run; each may be anything that `raftgrade run` takes as a PATH",
    )
    soak.add_argument(
        "--labs",
        metavar="2A[,2B]",
        help="labs to run (default: all; lab 3 only if an implementation has a kv.py). For an implementation that "
        "cannot do a lab, the soak leaves out this lab and the labs that build on it",
    )
    soak.add_argument("--network", default="sim", metavar="sim|rpyc|sim,rpyc", help="where to run (default: sim)")
    soak.add_argument(
        "--hours", type=float, metavar="H", help="start no more runs after H hours (default: run until Ctrl-C)"
    )
    soak.add_argument(
        "--passes", type=int, metavar="N", help="stop when each test, and the random scenarios, have run with N seeds"
    )
    soak.add_argument("--seed", type=int, default=0, metavar="FIRST", help="the first seed (default: 0)")
    soak.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="perform N runs in parallel (default: one per processor in sim, and four per processor on the real network)",
    )
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
        "--out",
        metavar="DIR",
        help="keep the log in DIR; a later soak with the same DIR continues where this one stopped",
    )
    soak.add_argument("--show", metavar="DIR", help="show the log in DIR, and run nothing")


def settings(arguments: argparse.Namespace, rubric: Rubric) -> Settings:
    """The settings of a grading run. Raises :class:`CannotStart` or :class:`raftlab.labs.UnknownLab`."""
    for option in ("runs", "rpyc_runs", "jobs", "rpyc_jobs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise CannotStart(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if arguments.seed < 0:
        raise CannotStart(f"--seed must be 0 or more, not {arguments.seed}")
    sure = _sure(arguments)
    chosen = chosen_labs(arguments)
    networks = list(NETWORKS) if arguments.network == "both" else [arguments.network]
    rpyc_runs = arguments.rpyc_runs
    if rpyc_runs is None:
        rpyc_runs = arguments.runs if arguments.network == "rpyc" and arguments.runs else 1
    jobs = default_jobs(arguments.jobs)
    rpyc_jobs = arguments.rpyc_jobs or (arguments.network == "rpyc" and arguments.jobs) or jobs["rpyc"]
    runs = {"sim": sure.most if sure is not None else arguments.runs or 20, "rpyc": rpyc_runs}
    return Settings(
        labs=chosen,
        networks=networks,
        runs={network: runs[network] for network in networks},
        seed=arguments.seed,
        races=arguments.races,
        jobs=jobs["sim"],
        rpyc_jobs=rpyc_jobs,
        until=sure,
        hidden=rubric.hidden.seeds() if rubric.hidden.runs and "sim" in networks else None,
        raft="" if arguments.raft is None else our_own.name_of_raft(arguments.raft),
    )


def chosen_labs(arguments: argparse.Namespace) -> list[str]:
    """The labs that ``--labs`` names; with ``--raft``, only the labs of services. Raises :class:`CannotStart` or
    :class:`raftlab.labs.UnknownLab`."""
    chosen = parse_labs(arguments.labs)
    if arguments.raft is None:
        return chosen
    others = [lab for lab in chosen if not labs.LABS[lab].has("service")]
    if others and arguments.labs is not None:
        raise CannotStart(f"--raft is for lab 3: lab {others[0]} tests the submission's own Raft")
    return [lab for lab in chosen if lab not in others]


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
        return roster.decoded(Path(path).read_bytes())
    except UnicodeDecodeError:
        raise CannotStart(f"{shown}: expected text in UTF-8; this is something else") from None
    except OSError as exc:
        raise CannotStart(f"{shown} cannot be read: {exc.strerror or exc}") from None
