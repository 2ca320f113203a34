"""Compute the points of a report by its rubric. This is pure arithmetic, so points can be computed again later.

A run that could not be judged (``error``) neither passed nor failed: points depend on the judged runs alone. When fewer
than half of a test's runs on a network were judged, its points are *open*: neither lost nor earned, for people to decide.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise

from raftgrade.plan import Settings
from raftgrade.results import NetworkResult, Report, SubmissionResult, TestResult
from raftgrade.rubric import Curve, Rubric
from raftlab.safe_text import count, printable

_DIGITS = 4  # decimals of points: enough that the sum of a lab is not visibly off


def mark(report: Report) -> None:
    """Compute the points of every submission of ``report``, by the report's own rubric."""
    for submission in report.submissions:
        mark_one(submission, report.rubric, report.settings)


def mark_one(submission: SubmissionResult, rubric: Rubric, settings: Settings) -> None:
    """Set the points, and the states and notes of the tests, of a submission whose runs were counted."""
    prices = _prices(submission.tests, rubric)
    for lab in settings.labs:
        tests = [test for test in submission.tests if test.lab == lab]
        reason = why_skipped(submission, rubric, lab)
        for test in tests:
            test.max_points = round(prices[lab, test.name], _DIGITS)
            test.points, test.notes = 0.0, []
            if reason:
                test.state, test.notes = "skipped", [reason]
                for network in test.networks:
                    network.runs = network.done  # some runs may have been made under another rubric
            else:
                _judge(test, rubric, settings)
    submission.max_points = round(sum(test.max_points for test in submission.tests), _DIGITS)
    earned = sum(test.points for test in submission.tests)
    if submission.state in ("refused", "unjudged"):
        earned = 0.0
    submission.penalty = round(earned * rubric.late.share(submission.late_days), _DIGITS)
    submission.points = round(earned - submission.penalty, _DIGITS)
    submission.open_points = round(sum(test.max_points for test in submission.tests if test.state == "open"), _DIGITS)
    if submission.state == "unjudged":
        submission.open_points = submission.max_points


def why_skipped(submission: SubmissionResult, rubric: Rubric, lab: str) -> str:
    """Why ``lab`` is not run for this submission; empty if it is, or if that cannot be known yet. The labs before it must
    have been marked. Open points count as earned: a fault of the machine must not cause a lab to be skipped."""
    for need in rubric.needs(lab):
        tests = [test for test in submission.tests if test.lab == need]
        if not tests or not all(test.state in ("judged", "open", "skipped") for test in tests):
            continue
        best = sum(test.max_points if test.state == "open" else test.points for test in tests)
        most = sum(test.max_points for test in tests)
        wanted = rubric.labs[lab].needs_share * most
        if best < wanted - 1e-9 or any(test.state == "skipped" for test in tests):
            return f"skipped: it needs {wanted:g} of {most:g} points in {need}, and {need} has {best:g}"
    return ""


def _prices(tests: Sequence[TestResult], rubric: Rubric) -> dict[tuple[str, str], float]:
    """The maximum points of each test: from the suite or the rubric, scaled to the rubric's points for the lab."""
    prices: dict[tuple[str, str], float] = {}
    for test in tests:
        own = rubric.tests.get(test.name)
        given = own.points if own is not None else None
        prices[test.lab, test.name] = float(test.suite_points) if given is None else given
    for lab, changed in rubric.labs.items():
        here = [key for key in prices if key[0] == lab]
        total = sum(prices[key] for key in here)
        if changed.points is not None and total:
            for key in here:
                prices[key] *= changed.points / total
    return prices


def _judge(test: TestResult, rubric: Rubric, settings: Settings) -> None:
    if any(network.done < network.runs or not network.runs for network in test.networks):
        unrun = all(not network.runs for network in test.networks)
        test.state = "open" if unrun else "waiting"
        if unrun:
            test.notes = ["open: it was skipped under the rubric of the run; run raftgrade again"]
        return
    short = [network for network in test.networks if 2 * (network.passes + network.failures) < network.runs]
    if short:
        lost = sum(network.errors for network in short)
        runs = sum(network.runs for network in short)
        test.state = "open"
        test.notes = [f"open: {lost} of {count(runs, 'run')} could not be judged; run raftgrade again"]
        return
    test.state = "judged"
    earned = test.max_points * _share(test, rubric, settings)
    for note in _exceeded(test, rubric):
        test.notes.append(note)
    if test.notes and earned:
        earned *= rubric.limits_for(test.name).keep
    test.points = round(earned, _DIGITS)


def _share(test: TestResult, rubric: Rubric, settings: Settings) -> float:
    rule = rubric.rule_for(test.lab, test.name)
    if rule == "all-or-nothing":
        return float(all(_whole(network, settings) for network in test.networks))
    total = weights = 0.0
    for name in dict.fromkeys(network.network for network in test.networks):
        same = [network for network in test.networks if network.network == name]
        passes = sum(network.passes for network in same)
        judged = passes + sum(network.failures for network in same)
        rate = passes / judged
        # A network that the rubric does not name has no weight, unless it is the only one.
        weight = rubric.weights.get(name, 0.0) if len(settings.networks) > 1 and len(test.networks) > 1 else 1.0
        total += weight * (rate if rule == "proportional" else on_curve(rubric.curve, rate))
        weights += weight
    return total / weights if weights else 0.0


def _whole(network: NetworkResult, settings: Settings) -> bool:
    """Whether every judged run passed; with a sequential test, whether the test is more likely reliable than not."""
    if network.verdict and settings.until is not None:
        undecided = network.verdict == "undecided"
        likely = settings.until.llr(network.passes, network.failures) >= 0
        return network.verdict == "reliable" or (undecided and likely)
    return not network.failures


def on_curve(curve: Curve, rate: float) -> float:
    """The share of the points that the pass rate ``rate`` earns."""
    for (low, at_low), (high, at_high) in pairwise(curve):
        if rate <= high:
            return at_low + (at_high - at_low) * (rate - low) / (high - low)
    return curve[-1][1]


def _exceeded(test: TestResult, rubric: Rubric) -> list[str]:
    """The limits that the passing runs in sim exceed. Only there does virtual time make measurements exact."""
    limits = rubric.limits_for(test.name)
    notes = []
    for network in test.networks:
        if network.network != "sim" or network.hidden:
            continue
        measured = (
            ("seconds of virtual time", limits.lab_s, network.lab_s),
            ("RPCs", limits.rpcs, network.rpcs),
            ("bytes", limits.bytes, network.rpc_bytes),
        )
        for what, most, spread in measured:
            if most is not None and spread is not None and spread.p95 > most:
                share = f"the test keeps {limits.keep:.0%} of its points"
                notes.append(f"expected at most {most:g} {what} in 95 % of runs, saw {spread.p95:g}: {share}")
    return notes


class BadLate(Exception):
    """The list of late submissions cannot be used. The message says where and why."""


def read_late(text: str, shown: str, names: Iterable[str]) -> dict[str, float]:
    """How many days late each submission is.

    Args:
        text: CSV with the columns ``submission`` and ``days`` or ``hours``.
        shown: what messages call the file.
        names: of all submissions.

    Raises:
        BadLate: the list has a mistake.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    header = [name.strip().lower() for name in rows.fieldnames or []]
    rows.fieldnames = header
    unit = next((name for name in ("days", "hours") if name in header), None)
    if "submission" not in header or unit is None:
        seen = ", ".join(map(printable, header)) or "nothing"
        raise BadLate(f"{shown}: expected a first line with submission,days or submission,hours; saw {seen}")
    known = set(names)
    late: dict[str, float] = {}
    for row in rows:
        name, amount = (row["submission"] or "").strip(), (row[unit] or "").strip()
        where = f"{shown} line {rows.line_num}"
        if name not in known:
            raise BadLate(f"{where}: there is no submission {printable(name)!r}")
        try:
            days = float(amount) / (1 if unit == "days" else 24)
        except ValueError:
            days = -1.0
        if not 0 <= days < 10_000:
            raise BadLate(f"{where}: expected {unit}, a number of 0 or more, not {printable(amount)!r}")
        late[name] = days
    return late
