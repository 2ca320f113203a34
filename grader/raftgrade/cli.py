"""The command line of raftgrade: ``run`` grades submissions, ``report`` shows a report in any format, ``proof`` tests the
suites themselves, and ``soak`` runs them for hours.

Exit codes: 0 everything passed · 1 a run failed · 2 something could not be judged, a submission was refused, the report is
not complete, or the command line was wrong · 130 stopped with Ctrl-C (143 SIGTERM, 129 SIGHUP); the report then has what
had finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from raftgrade import __version__, grade, marks, options, output_folder, rubric, store
from raftgrade.engines import local
from raftgrade.engines.commands import Commands, RaftlabCommands
from raftgrade.intake import submissions
from raftgrade.intake.reuse import code_fingerprint, reusable_entries
from raftgrade.intake.take_in import take_in
from raftgrade.options import read_text_file
from raftgrade.plan import CannotStart, CatalogueTest, expected_tests, parse_labs
from raftgrade.proof import bug_bank, kill_rates
from raftgrade.proof import page as proof_page
from raftgrade.reports import formats, gradescope, table
from raftgrade.results import Report, exit_code
from raftgrade.rubric import Rubric
from raftgrade.soak import log, runner
from raftlab import command_line, labs
from raftlab.safe_text import count, printable
from raftlab.sandbox import levels
from raftlab.suites import catalogue

REFUSALS = (
    CannotStart,
    output_folder.BadFolder,
    submissions.BadPath,
    labs.UnknownLab,
    levels.SandboxUnavailable,
    rubric.BadRubric,
    marks.BadLate,
    formats.CannotReport,
    bug_bank.BadBank,
    kill_rates.CannotProve,
)


@dataclass(frozen=True, slots=True)
class Tools:
    """What the grader needs from raftlab. Tests replace it."""

    commands: Commands = field(default_factory=RaftlabCommands)
    catalogue: Callable[[str], Sequence[CatalogueTest]] = catalogue.tests
    choose_sandbox: Callable[[str], levels.Sandbox] = levels.choose


def main(argv: Sequence[str] | None = None, tools: Tools | None = None) -> int:
    """Run the command line ``argv``. Returns the exit code; raises ``SystemExit`` where argparse does."""
    command_line.tolerate_narrow_terminals()
    arguments = options.parser().parse_args(argv)
    tools = tools or Tools()
    commands: dict[str, Callable[[], int]] = {
        "run": lambda: _run(arguments, tools),
        "report": lambda: _report(arguments, tools),
        "rubric": _print_rubric,
        "soak": lambda: _soak(arguments, tools),
        "gradescope-zip": lambda: _gradescope_zip(arguments, tools),
        "proof": lambda: _proof(arguments),
    }
    return command_line.run("raftgrade", commands[arguments.command], REFUSALS, "the report cannot be written")


def _print_rubric() -> int:
    sys.stdout.write(rubric.default_text())
    return 0


def _report(arguments: argparse.Namespace, tools: Tools) -> int:
    folder = Path(arguments.dir)
    report = store.read(folder)
    if arguments.rubric is not None:
        # The hidden runs were made already: new points do not need their secret.
        report.rubric = _rubric(arguments.rubric, tools).public()
    if arguments.late is not None:
        _set_late(_late(arguments.late, [each.name for each in report.submissions]), report)
    if arguments.rubric is not None or arguments.late is not None:
        marks.mark(report)
    report_options = formats.ReportOptions(
        arguments.format,
        folder,
        None if arguments.output is None else Path(arguments.output),
        None if arguments.template is None else read_text_file(arguments.template),
        arguments.column,
        arguments.student,
    )
    text, notes = formats.make(report, report_options)
    for note in notes:
        print(f"raftgrade: {printable(note)}", file=sys.stderr)
    if report_options.output is None:
        sys.stdout.write(text)
    else:
        report_options.output.write_text(text, encoding="utf-8", newline="")
        print(f"raftgrade: the report is in {printable(str(report_options.output))}", file=sys.stderr)
    # To have made a report is a success, whatever it says; except for the table, which is also how `run` ends.
    return exit_code(report) if arguments.format == "table" else 0


def _soak(arguments: argparse.Namespace, tools: Tools) -> int:
    if arguments.show is not None:
        return runner.show(Path(arguments.show))
    return runner.run(
        runner.parse_settings(arguments, tools.choose_sandbox), tools.commands, tools.catalogue, sys.stderr
    )


def _gradescope_zip(arguments: argparse.Namespace, tools: Tools) -> int:
    if arguments.runs < 1:
        raise CannotStart(f"--runs must be at least 1, not {arguments.runs}")
    text = None
    if arguments.rubric is not None:
        _rubric(arguments.rubric, tools)  # a mistake should be found here, not by the autograder at midnight
        text = read_text_file(arguments.rubric)
    out = Path(arguments.out)
    gradescope.make_zip(out, parse_labs(arguments.labs), arguments.network, arguments.runs, text)
    print(
        f"raftgrade: the autograder is in {printable(str(out))}: upload it to Gradescope without changes",
        file=sys.stderr,
    )
    return 0


def _proof(arguments: argparse.Namespace) -> int:
    settings = options.proof_settings(arguments)
    bank = bug_bank.read(Path(arguments.bank))
    names = [name.strip() for name in (arguments.bugs or "").split(",") if name.strip()]
    reference = Path(arguments.reference)
    if reference.is_dir():
        reference /= "raft.py"
    bugs = bug_bank.choose(bank, parse_labs(arguments.labs), names)
    trials = kill_rates.make_trials(bugs, read_text_file(str(reference)), settings)
    soak = None if arguments.soak is None else log.read_all(map(Path, arguments.soak))
    shown = printable(arguments.out)
    # Of the code that runs now: it may change on disk during the proof.
    versions = f"raftgrade {__version__}, {kill_rates.versions()}"
    with kill_rates.Folder(Path(arguments.out)) as folder:
        reused = folder.load(trials)
        if reused:
            print(
                f"raftgrade: reused {reused} passes of the proof in {shown}: nothing has changed for them",
                file=sys.stderr,
            )
        try:
            kill_rates.run(trials, folder, settings, sys.stderr)
        except KeyboardInterrupt:
            print(
                f"raftgrade: interrupted; finished passes are in {shown}; run the same command again to continue",
                file=sys.stderr,
            )
            return 130
    print(proof_page.table(trials, settings, bold=sys.stdout.isatty()))
    if arguments.page is not None:
        made = proof_page.Facts(f"{datetime.now(UTC):%Y-%m-%d}", options.proof_command(arguments), versions, settings)
        Path(arguments.page).write_text(proof_page.page(trials, bank, made, soak), encoding="utf-8")
        print(f"raftgrade: the page is in {printable(arguments.page)}", file=sys.stderr)
    return proof_page.exit_code(trials)


def _rubric(path: str | None, tools: Tools) -> Rubric:
    if path is None:
        return rubric.default()
    return rubric.load(Path(path), {lab: [test.name for test in tools.catalogue(lab)] for lab in labs.LABS})


def _late(path: str, names: Sequence[str]) -> dict[str, float]:
    return marks.read_late(read_text_file(path), printable(path), names)


def _set_late(late: dict[str, float], report: Report) -> None:
    for submission in report.submissions:
        submission.late_days = late.get(submission.name, 0.0)


def _run(arguments: argparse.Namespace, tools: Tools) -> int:
    chosen_rubric = _rubric(arguments.rubric, tools)
    settings = options.settings(arguments, chosen_rubric)
    settings = msgspec.structs.replace(settings, sandbox=tools.choose_sandbox(arguments.sandbox))
    make_engine = _engine(arguments)
    out = Path(arguments.out)
    given = submissions.find(arguments.paths, ignore=out)
    if given.skipped:
        names = ", ".join(printable(path.name) for path in given.skipped)
        print(
            f"raftgrade: no raft.py in {count(len(given.skipped), 'folder')}, left out: {names}",
            file=sys.stderr,
        )
    tests, left_out = expected_tests(settings, {lab: tools.catalogue(lab) for lab in settings.labs})
    if not tests:
        raise CannotStart(f"no test of {', '.join(settings.labs)} runs on {' or '.join(settings.networks)}")
    # Before anything is written: after a mistake in the file, nothing must have changed.
    late = {} if arguments.late is None else _late(arguments.late, [item.name for item in given.submissions])
    with store.Store.create(out) as folder:
        intake = take_in(given, tests, settings, folder)
        plan = Report(
            tool=f"raftgrade {__version__}",
            code=code_fingerprint(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings,
            rubric=chosen_rubric.public(),
            left_out=left_out,
            submissions=intake.submissions,
        )
        _set_late(late, plan)
        marks.mark(plan)
        reused = folder.start_report(
            [] if arguments.fresh else reusable_entries(plan, folder.earlier),
            slugs={item.name: item.slug for item in intake.submissions},
        )
        if reused.outcomes:
            outcomes = f"{count(reused.outcomes, 'outcome')} of the report in {printable(str(out))}"
            text = f"reused {outcomes}: nothing has changed for them (--fresh makes all runs again)"
            print(f"raftgrade: {text}", file=sys.stderr)
        started = time.monotonic()
        report, signal_number = grade.grade(
            plan,
            tests,
            intake.paths,
            tools.commands,
            folder,
            reused,
            sys.stderr,
            started,
            make_engine=make_engine,
            refused=intake.refused,
        )
        text = "" if signal_number else table.render(report, folder.spill.load)
    shown = printable(str(out))
    if signal_number:
        so_far = f"{report.done} of {count(report.planned, 'run')} are in {shown}/{store.REPORT}"
        again = f"raftgrade report {shown} shows them"
        print(f"raftgrade: interrupted; {so_far}: {again}", file=sys.stderr)
        return 128 + signal_number
    print(text)
    print(f"raftgrade: the report is in {shown}/{store.REPORT}", file=sys.stderr)
    return exit_code(report)


def _engine(arguments: argparse.Namespace) -> grade.MakeEngine:
    """The engine that ``--engine`` names. Raises :class:`CannotStart`."""
    if arguments.engine == "local":
        if arguments.scheduler is not None:
            raise CannotStart("--scheduler goes with --engine dask")
        return local.LocalEngine
    from raftgrade.engines import dask

    return dask.connect(arguments.scheduler, arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
