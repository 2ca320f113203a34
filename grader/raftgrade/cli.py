"""The command line of raftgrade: ``run`` grades submissions, ``report`` shows a report in any format, ``proof`` tests the
suites themselves, and ``soak`` runs them for hours.

Exit codes: 0 everything passed · 1 a run failed · 2 something could not be judged, a submission was refused, the report
is not complete, or the command line was wrong · 130 stopped with Ctrl-C, 143 by SIGTERM, 129 by SIGHUP. When a grading
run is stopped, its report contains the runs that had finished.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from raftgrade import (
    __version__,
    grade,
    kit,
    late,
    manual,
    marks,
    options,
    output_folder,
    rubric,
    signatures,
    similarity,
    store,
)
from raftgrade.engines import local
from raftgrade.engines.commands import Commands, RaftlabCommands
from raftgrade.intake import our_own, roster, same_code, submissions
from raftgrade.intake.drafts import ENTRIES, SERVICE_ENTRIES
from raftgrade.intake.reuse import code_fingerprint, reusable_entries
from raftgrade.intake.take_in import take_in
from raftgrade.options import read_text_file
from raftgrade.plan import (
    CannotStart,
    CatalogueTest,
    Expected,
    LeftOut,
    Settings,
    expected_tests,
    parse_labs,
    without_service,
)
from raftgrade.proof import bug_bank, kill_rates, mutant_runs, mutants, mutants_page, rules
from raftgrade.proof import page as proof_page
from raftgrade.reports import anonymous, formats, gradescope, table
from raftgrade.results import ManualMark, Report, exit_code
from raftgrade.rubric import Rubric
from raftgrade.soak import log, runner
from raftgrade.students import Finder, Named
from raftlab import command_line, labs
from raftlab.safe_text import count, printable
from raftlab.sandbox import levels
from raftlab.submission import starts
from raftlab.suites import catalogue

# The options of `raftgrade run` that affect marks, other than those that choose what is run.
MARKING_OPTIONS = ("roster", "rubric", "due", "late", "attempts", "raft", "until_sure", "races")
REFUSALS = (
    CannotStart,
    output_folder.BadFolder,
    signatures.BadKey,
    submissions.BadPath,
    labs.UnknownLab,
    levels.SandboxUnavailable,
    rubric.BadRubric,
    late.BadLate,
    manual.BadManual,
    formats.CannotReport,
    kit.CannotMakeKit,
    similarity.CannotCompare,
    starts.NoStart,
    bug_bank.BadBank,
    kill_rates.CannotProve,
)


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts of raftlab that the grader needs. Tests replace some of these parts."""

    commands: Commands = field(default_factory=RaftlabCommands)
    catalogue: Callable[[str], Sequence[CatalogueTest]] = catalogue.tests
    choose_sandbox: Callable[[str, bool], levels.Sandbox] = levels.choose


def main(argv: Sequence[str] | None = None, tools: Tools | None = None) -> int:
    """Run the command line ``argv``. Returns the exit code; raises ``SystemExit`` where argparse does."""
    command_line.prepare_streams()
    csv.field_size_limit(sys.maxsize)  # a cell of a gradebook may hold a long text
    arguments = options.parser().parse_args(argv)
    tools = tools or Tools()
    commands: dict[str, Callable[[], int]] = {
        "run": lambda: _run(arguments, tools),
        "report": lambda: _report(arguments, tools),
        "rubric": _print_rubric,
        "soak": lambda: _soak(arguments, tools),
        "similarity": lambda: _similarity(arguments),
        "kit": lambda: _kit(arguments),
        "gradescope-zip": lambda: _gradescope_zip(arguments, tools),
        "proof": lambda: _proof(arguments),
    }
    return command_line.run("raftgrade", commands[arguments.command], lambda: REFUSALS, "the report cannot be written")


def _print_rubric() -> int:
    sys.stdout.write(rubric.default_text())
    return 0


def _report(arguments: argparse.Namespace, tools: Tools) -> int:
    folder = Path(arguments.dir)
    key = signatures.kept_key() if arguments.key is None else _key(arguments.key)
    report = store.read(folder, key)
    if report.unverified:
        text = f"{report.unverified}. Someone else may have written it, or changed it since"
        if not arguments.unverified:
            more = "--key FILE checks it with the key of the machine where it was made, --unverified shows it as it is"
            raise CannotStart(f"{text}: {more}")
        print(f"raftgrade: NOT VERIFIED: {text}", file=sys.stderr)
    if arguments.rubric is not None:
        # public() leaves out the secret, which is needed only to choose the seeds of hidden runs. These runs have been made.
        report.rubric = _rubric(arguments.rubric, tools).public()
    codes = {} if key is None else anonymous.codes(key, [each.name for each in report.submissions])
    finder = Finder(report.submissions, lambda each: each.path, codes)
    if arguments.late is not None or arguments.due is not None:
        _set_late(report, *_late(arguments, finder.find, report.rubric))
    if arguments.manual is not None:
        tests = {test.name for submission in report.submissions for test in submission.tests}
        manual.set_marks(report.submissions, _manual(arguments.manual, finder.find, tests))
    if any(each is not None for each in (arguments.rubric, arguments.late, arguments.due, arguments.manual)):
        marks.mark(report)
    if arguments.attempts is not None:
        report.attempts = arguments.attempts
    if arguments.anonymous:
        if not codes:
            raise CannotStart("--anonymous computes each code from your key, but there is no folder to keep a key in")
        report = anonymous.anonymous(report, codes)
    report_options = formats.ReportOptions(
        arguments.format,
        folder,
        None if arguments.output is None else Path(arguments.output),
        None if arguments.template is None else read_text_file(arguments.template),
        arguments.column,
        arguments.student,
        arguments.visibility,
        arguments.anonymous,
    )
    text, notes = formats.make(report, report_options)
    for note in notes:
        print(f"raftgrade: {printable(note)}", file=sys.stderr)
    if arguments.format == "feedback":
        return 0  # the files are written
    if report_options.output is None:
        sys.stdout.write(text)
    else:
        report_options.output.write_text(text, encoding="utf-8", newline="")
        print(f"raftgrade: the report is in {printable(str(report_options.output))}", file=sys.stderr)
    # The table has the same exit code as `raftgrade run`, which prints the same table. For any other format, the exit code
    # is 0 once the text is written.
    return exit_code(report) if arguments.format == "table" else 0


def _key(path: str) -> bytes:
    """The key in the file that ``--key`` names. Raises :class:`CannotStart` and :class:`signatures.BadKey`."""
    try:
        return signatures.read_key(Path(path))
    except OSError as exc:
        raise CannotStart(f"{printable(path)} cannot be read: {exc.strerror or exc}") from None


def _soak(arguments: argparse.Namespace, tools: Tools) -> int:
    if arguments.show is not None:
        return runner.show(Path(arguments.show))
    return runner.run(
        runner.parse_settings(
            arguments,
            lambda choice: tools.choose_sandbox(choice, our_own.is_reference(submissions.find(arguments.paths))),
        ),
        tools.commands,
        tools.catalogue,
        sys.stderr,
    )


def _start_labs(arguments: argparse.Namespace) -> list[str]:
    """The labs that ``--starts`` names, without the first lab. Students may start at each of them."""
    chosen = [] if arguments.starts is None else parse_labs(arguments.starts)
    return [lab for lab in chosen if lab != next(iter(labs.LABS))]


def _similarity(arguments: argparse.Namespace) -> int:
    if arguments.pairs < 1:
        raise CannotStart(f"--pairs must be at least 1, not {arguments.pairs}")
    out = Path(arguments.out)
    paths = [
        Path(path, store.SUBMISSIONS) if Path(path, store.REPORT).is_file() else Path(path) for path in arguments.paths
    ]
    given = submissions.find(paths, ignore=out)
    earlier = submissions.find(arguments.archive, ignore=out) if arguments.archive else None
    left_out = similarity.compare(given, earlier, _start_labs(arguments), out, arguments.pairs)
    for line in similarity.summary(given, left_out, out):
        print(f"raftgrade: {line}", file=sys.stderr)
    return 0


def _kit(arguments: argparse.Namespace) -> int:
    start_labs = _start_labs(arguments)
    wheel = kit.make(Path(arguments.out), start_labs, arguments.url, arguments.with_grader)
    solved = f" and the starts at {', '.join(start_labs)}" if start_labs else ""
    print(
        f"raftgrade: the kit is in {printable(str(wheel))}; it has the skeleton{solved}. Students install it with "
        f"pip install {printable(wheel.name)}",
        file=sys.stderr,
    )
    return 0


def _gradescope_zip(arguments: argparse.Namespace, tools: Tools) -> int:
    if arguments.runs < 1:
        raise CannotStart(f"--runs must be at least 1, not {arguments.runs}")
    text = None
    if arguments.rubric is not None:
        _rubric(arguments.rubric, tools)  # report a mistake now, not when the autograder runs for the first time
        text = read_text_file(arguments.rubric)
    raft, files = ("", {}) if arguments.raft is None else our_own.raft_for_zip(arguments.raft)
    out = Path(arguments.out)
    gradescope.make_zip(
        out,
        options.chosen_labs(arguments),
        arguments.network,
        arguments.runs,
        text,
        arguments.sandbox,
        arguments.visibility or "visible",
        raft,
        files,
    )
    print(
        f"raftgrade: the autograder is in {printable(str(out))}: upload it to Gradescope without changes",
        file=sys.stderr,
    )
    return 0


def _proof(arguments: argparse.Namespace) -> int:
    settings = options.proof_settings(arguments)
    if arguments.rules:
        return _show_rules(Path(arguments.bank))
    # Read the versions before the passes, because the code on disk may change while these run.
    versions = f"raftgrade {__version__}, {kill_rates.versions()}"
    facts = proof_page.Facts(f"{datetime.now(UTC):%Y-%m-%d}", options.proof_command(arguments), versions, settings)
    if arguments.mutants:
        return _mutants(arguments, facts)
    bank = bug_bank.read(Path(arguments.bank))
    names = [name.strip() for name in (arguments.bugs or "").split(",") if name.strip()]
    bugs = bug_bank.choose(bank, parse_labs(arguments.labs), names)
    trials = kill_rates.make_trials(bugs, _reference(arguments), settings)
    soak = None if arguments.soak is None else log.read_all(map(Path, arguments.soak))
    if not _run_passes(arguments, trials, settings):
        return 130
    print(proof_page.table(trials, settings, bold=sys.stdout.isatty()))
    if arguments.page is not None:
        matrix = rules.read(Path(arguments.bank))
        page, earlier = proof_page.page(trials, bank, facts, soak, matrix), _earlier_page(arguments)
        section = mutants_page.section_of(earlier)
        _write_page(arguments, mutants_page.with_section(page, section) if section else page)
    return proof_page.exit_code(trials)


def _mutants(arguments: argparse.Namespace, facts: proof_page.Facts) -> int:
    source = _reference(arguments)["raft.py"]
    all_mutants = mutants.make(source)
    notes = mutants.read_notes(Path(arguments.bank), all_mutants)
    chosen = mutant_runs.choose(
        all_mutants, notes.equivalent, arguments.only or "", arguments.sample or 0, arguments.seed
    )
    trials = mutant_runs.make_trials(chosen, source, facts.settings, parse_labs(arguments.labs), arguments.net)
    if not _run_passes(arguments, trials, facts.settings):
        return 130
    print(mutants_page.table(trials, notes))
    if arguments.page is not None:
        section = mutants_page.section(trials, notes, facts)
        _write_page(arguments, mutants_page.with_section(_earlier_page(arguments), section))
    return mutants_page.exit_code(trials, notes)


def _reference(arguments: argparse.Namespace) -> dict[str, str]:
    """The sources of the reference solution, by name: ``raft.py``, and ``kv.py`` if it has one."""
    path = Path(arguments.reference)
    raft = path / "raft.py" if path.is_dir() else path
    sources = {"raft.py": read_text_file(str(raft))}
    kv = raft.with_name("kv.py")
    return sources | ({"kv.py": read_text_file(str(kv))} if kv.is_file() else {})


def _run_passes(
    arguments: argparse.Namespace, trials: Sequence[kill_rates.Measured], settings: kill_rates.Settings
) -> bool:
    """Run the passes that are missing. Returns ``False`` if they were interrupted."""
    shown = printable(arguments.out)
    with kill_rates.Folder(Path(arguments.out)) as folder:
        reused = folder.load(trials)
        if reused:
            print(
                f"raftgrade: reused {reused} finished passes of the proof in {shown}, because nothing that they depend on "
                "has changed",
                file=sys.stderr,
            )
        try:
            kill_rates.run(trials, folder, settings, sys.stderr)
        except KeyboardInterrupt:
            print(
                f"raftgrade: interrupted; finished passes are in {shown}; run the same command again to continue",
                file=sys.stderr,
            )
            return False
    return True


def _earlier_page(arguments: argparse.Namespace) -> str:
    """The text of the existing page; empty if there is none."""
    path = Path(arguments.page)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write_page(arguments: argparse.Namespace, text: str) -> None:
    Path(arguments.page).write_text(text, encoding="utf-8")
    print(f"raftgrade: the page is in {printable(arguments.page)}", file=sys.stderr)


def _show_rules(folder: Path) -> int:
    """Print the matrix of rules in the bank ``folder``. Returns 1 if something is missing from it."""
    matrix = rules.read(folder)
    print(rules.table(matrix))
    found = rules.problems(matrix, bug_bank.read(folder))
    for problem in found:
        print(f"raftgrade: {problem}", file=sys.stderr)
    return 1 if found else 0


def _rubric(path: str | None, tools: Tools) -> Rubric:
    if path is None:
        return rubric.default()
    return rubric.load(Path(path), {lab: [test.name for test in tools.catalogue(lab)] for lab in labs.LABS})


def _late(
    arguments: argparse.Namespace, find: Callable[[str], Sequence[Named]], chosen_rubric: Rubric
) -> tuple[dict[str, float] | None, datetime | None]:
    """The days by which submissions are late, and the deadline, from ``--late`` and ``--due``."""
    due = None if arguments.due is None else late.read_due(arguments.due)
    if arguments.late is None:
        return None, due
    return late.read_late(read_text_file(arguments.late), printable(arguments.late), find, chosen_rubric), due


def _manual(path: str, find: Callable[[str], Sequence[Named]], tests: Iterable[str]) -> dict[str, list[ManualMark]]:
    return manual.read(read_text_file(path), printable(path), find, tests)


def _keep_manual(plan: Report, folder: store.Store) -> None:
    """Keep the points and comments that were given by hand in this user's earlier report in ``folder``."""
    earlier = folder.earlier
    if earlier is None:
        return
    given = {each.name: each.manual for each in earlier.header.submissions if each.manual}
    if given and not earlier.signed:
        text = (
            "did not keep the points and comments given by hand in the earlier report, because your key did not sign it"
        )
        print(f"raftgrade: {text}: give them again with --manual", file=sys.stderr)
        return
    manual.set_marks(plan.submissions, given)
    kept = {each.name for each in plan.submissions if each.manual}
    if given:
        text = f"kept the points and comments given by hand for {count(len(kept), 'submission')} of the earlier report"
        lost = given.keys() - kept
        more = f"; these submissions are not here any more: {'; '.join(map(printable, sorted(lost)))}" if lost else ""
        print(f"raftgrade: {text}{more}", file=sys.stderr)


def _marking_options(arguments: argparse.Namespace) -> dict[str, str]:
    """The :data:`MARKING_OPTIONS` that were given, with their values. The value of a switch is empty."""
    given = {name: getattr(arguments, name) for name in MARKING_OPTIONS}
    return {name: "" if value is True else str(value) for name, value in given.items() if value not in (None, False)}


def _omissions(folder: store.Store, options: dict[str, str]) -> str:
    """A warning if the earlier report was made with options that this command lacks; otherwise empty.

    Such options are not taken over, for three reasons. A command should do the same in every folder. The files that the
    options name may have changed. And the only way to say that an option no longer applies is to leave it out.
    """
    earlier = folder.earlier
    if earlier is None or not earlier.signed:
        return ""
    left_out = [
        shlex.join([f"--{name.replace('_', '-')}", *filter(None, [value])])
        for name, value in earlier.header.options.items()
        if name not in options
    ]
    if not left_out:
        return ""
    text = f"the earlier report in {printable(str(folder.folder))} was made with {printable(' '.join(left_out))}"
    return f"raftgrade: WARNING: {text}, but this one is made without them: marks may differ"


def _set_late(report: Report, days: dict[str, float] | None, due: datetime | None) -> None:
    for note in late.set_late(report, days, due):
        print(f"raftgrade: {printable(note)}", file=sys.stderr)


def _run(arguments: argparse.Namespace, tools: Tools) -> int:
    chosen_rubric = _rubric(arguments.rubric, tools)
    settings = options.settings(arguments, chosen_rubric)
    out = Path(arguments.out)
    raft = None if arguments.raft is None else our_own.find_raft(arguments.raft)
    given = submissions.find(
        arguments.paths,
        out,
        ENTRIES if raft is None else SERVICE_ENTRIES,
        None if arguments.roster is None else _roster(arguments.roster),
        arguments.single,
    )
    for note in given.notes:
        print(f"raftgrade: {note}", file=sys.stderr)
    sandbox = tools.choose_sandbox(arguments.sandbox, our_own.is_reference(given, arguments.raft))
    settings = msgspec.structs.replace(settings, sandbox=sandbox)
    make_engine = _engine(arguments)
    if given.skipped:
        names = ", ".join(printable(path.name) for path in given.skipped)
        print(
            f"raftgrade: left out {count(len(given.skipped), 'folder')} without a {given.entries[0]}: {names}",
            file=sys.stderr,
        )
    tests, left_out = _tests(settings, tools)
    if not tests:
        raise CannotStart(f"no test of {', '.join(settings.labs)} runs on {' or '.join(settings.networks)}")
    # Read the instructor's files before anything is written, so that a mistake in a file changes nothing.
    kept = signatures.kept_key()
    codes = {} if kept is None else anonymous.codes(kept, [item.name for item in given.submissions])
    finder = Finder(given.submissions, lambda each: each.where, codes)
    lateness = _late(arguments, finder.find, chosen_rubric)
    by_hand = arguments.manual and _manual(arguments.manual, finder.find, [test.name for test in tests])
    with store.Store.create(out) as folder:
        intake = take_in(given, folder, raft)
        if arguments.labs is None and raft is None and not intake.some_have_a_service():
            settings = msgspec.structs.replace(settings, labs=without_service(settings.labs, sys.stderr))
            tests, left_out = _tests(settings, tools)
        plan = Report(
            tool=f"raftgrade {__version__}",
            code=code_fingerprint(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings,
            rubric=chosen_rubric.public(),
            left_out=left_out,
            same_code=same_code.find(intake.paths, raft),
            submissions=intake.results(tests, settings),
        )
        plan.attempts = arguments.attempts or ""
        plan.options = _marking_options(arguments)
        if warning := _omissions(folder, plan.options):
            print(warning, file=sys.stderr)
        _set_late(plan, *lateness)
        if by_hand is None:
            _keep_manual(plan, folder)
        else:
            manual.set_marks(plan.submissions, by_hand)
        marks.mark(plan)
        folder.signer = signer = signatures.Signer(signatures.key(), plan)
        reused = folder.start_report(
            [] if arguments.fresh else reusable_entries(plan, folder.earlier, signer),
            slugs={item.name: item.slug for item in given.submissions},
        )
        if signatures.kept_key() is None:
            text = "there is no place for a private key (XDG_STATE_HOME or ~/.local/state)"
            print(f"raftgrade: {text}, so the report will count as unverified later", file=sys.stderr)
        if reused.outcomes:
            outcomes = f"{count(reused.outcomes, 'outcome')} of the report in {printable(str(out))}"
            text = f"reused {outcomes}, because nothing that they depend on has changed (--fresh repeats all runs)"
            print(f"raftgrade: {text}", file=sys.stderr)
        if signer.refused:
            text = f"{count(signer.refused, 'outcome')} of the report in {printable(str(out))}"
            why = "they were written by someone else or on another machine, or were changed since"
            print(f"raftgrade: did not reuse {text}: {why}", file=sys.stderr)
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
    if warning:
        print(warning, file=sys.stderr)  # once more, because the table is long
    return exit_code(report)


def _roster(path: str) -> roster.Table:
    """The table that ``--roster`` names. Raises :class:`CannotStart` and :class:`roster.BadPath`."""
    try:
        return roster.read(Path(path))
    except OSError as exc:
        raise CannotStart(f"{printable(path)} cannot be read: {exc.strerror or exc}") from None


def _tests(settings: Settings, tools: Tools) -> tuple[list[Expected], list[LeftOut]]:
    """The expected tests, and those left out."""
    return expected_tests(settings, {lab: tools.catalogue(lab) for lab in settings.labs})


def _engine(arguments: argparse.Namespace) -> grade.MakeEngine:
    """The engine that ``--engine`` names. Raises :class:`CannotStart`."""
    if arguments.engine == "local":
        if arguments.scheduler is not None:
            raise CannotStart("--scheduler goes with --engine dask")
        return local.LocalEngine
    from raftgrade.engines import dask

    return dask.connect(arguments.scheduler, arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
