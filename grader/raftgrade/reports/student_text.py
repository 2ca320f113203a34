"""A submission's results as plain text for its author, as Gradescope, PrairieLearn and Autolab show it."""

from __future__ import annotations

from raftgrade.reports import table
from raftgrade.results import Report, SubmissionResult, TestResult, passed
from raftlab.explain import render as explain
from raftlab.safe_text import count, number, one_line, printable, spans


class NoMark(Exception):
    """No mark may be given yet, because something could not be judged. The platform then shows that its autograder
    failed."""


def only_one(report: Report, what: str) -> SubmissionResult:
    """The only submission of ``report``, if its mark is final. Raises :class:`NoMark`. ``what`` is the output's name in
    the message."""
    if len(report.submissions) != 1:
        raise NoMark(
            f"{what} is about one submission, and this report has {len(report.submissions)}: choose one with "
            "--student NAME"
        )
    submission = report.submissions[0]
    if submission.final:
        return submission
    if submission.state in ("unjudged", "absent") and submission.problems:
        why = "; ".join(one_line(problem.text, 300) for problem in submission.problems)
        raise NoMark(f"{printable(submission.name)} has no mark: {why}")
    raise NoMark(
        f"{printable(submission.name)} has no mark yet, because some runs are missing or could not be judged "
        f"({number(submission.open_points)} points are open); run the grader again"
    )


def about_submission(report: Report, submission: SubmissionResult) -> str:
    """What applies to the whole submission."""
    lines = []
    if submission.state == "refused":
        lines.append("The submission cannot be tested:")
        for problem in submission.problems:
            lines += [f"  {one_line(problem.text, 600)}", *([f"    at {problem.where}"] if problem.where else [])]
            lines += [f"    read: {problem.handout}"] if problem.handout else []
    elif submission.clean:
        lines.append("Every run of every test passed.")
    elif submission.state == "graded":
        red = sum(not passed(test) for test in submission.tests)
        lines.append(f"{count(red, 'test')} of {len(submission.tests)} did not pass every run.")
        lines.append("Each failure below has a command that repeats the run on your own machine.")
    lines += submission.comments
    if submission.penalty:
        lines.append(f"Late by {number(submission.late_days)} days: {number(submission.penalty)} points less.")
    if report.settings.raft_line:
        lines.append(f"({report.settings.raft_line})")
    if report.settings.sandbox is not None:
        lines.append(f"({table.sandbox_line(report.settings.sandbox)})")
    return printable("\n".join(lines))


def about_test(test: TestResult) -> str:
    """The runs of a test, and each kind of failure once."""
    blocks = [printable(note) for note in test.notes]
    for network in test.networks:
        name = f"{network.network}, hidden seeds" if network.hidden else network.network
        judged = network.passes + network.failures
        blocks.append(f"{name}: {network.passes} of {count(judged, 'run')} passed")
        for sort in network.classes:
            same = [bad for bad in network.bad if bad.sort == sort and bad.outcome == "failed"]
            if same:
                seeds = "" if network.hidden else f" (seeds {spans([bad.seed for bad in same])})"
                blocks.append(
                    f"{count(len(same), 'time')}{seeds}:\n" + explain.as_text(same[0].failure, same[0].replay)
                )
    if not passed(test):
        blocks += [f"advice: {line}" for line in test.advice]
    return printable("\n\n".join(blocks))
