"""Compute the points of a report from its rubric. No run is needed, so points can be computed again later.

A run that could not be judged (``error``) neither passed nor failed: points depend on the judged runs alone. When fewer than
half of a test's runs on a network were judged, its points are *open*: neither lost nor earned until a person decides. But a
test that must pass every run has failed as soon as one run on any network has failed, even if points on other networks are
open.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from raftgrade.plan import Settings
from raftgrade.results import ManualMark, NetworkResult, Report, SubmissionResult, TestResult
from raftgrade.rubric import Curve, Rubric
from raftlab.safe_text import count, number

_DIGITS = 4  # decimals of points: enough that the sum of a lab is not visibly off


def mark(report: Report) -> None:
    """Compute the points of every submission of ``report``, by the report's own rubric."""
    for submission in report.submissions:
        mark_one(submission, report.rubric, report.settings)


def mark_one(submission: SubmissionResult, rubric: Rubric, settings: Settings) -> None:
    """Set a submission's points, and the states and notes of its tests. Its runs must have been counted."""
    prices = _prices(submission.tests, rubric)
    for lab in settings.labs:
        tests = [test for test in submission.tests if test.lab == lab]
        reason, is_open = why_skipped(submission, rubric, lab)
        for test in tests:
            test.max_points = round(prices[lab, test.name], _DIGITS)
            test.points, test.notes = 0.0, []
            if reason:
                test.state, test.notes = "open" if is_open else "skipped", [reason]
                for network in test.networks:
                    # No more runs are planned. Finished runs were made under another rubric, which did not skip the lab.
                    network.runs = network.done
            else:
                _judge(test, rubric, settings)
            for decided in submission.manual:
                if decided.test == test.name:
                    _decide(test, decided)
    submission.max_points = round(sum(test.max_points for test in submission.tests), _DIGITS)
    earned = submission.earned
    submission.penalty = round(earned * rubric.late.share(submission.late_days), _DIGITS)
    points = earned - submission.penalty
    submission.open_points = round(sum(test.max_points for test in submission.tests if test.state == "open"), _DIGITS)
    if submission.state == "unjudged":
        submission.open_points = submission.max_points
    submission.settled = False
    for decided in submission.manual:
        if not decided.test and decided.points is not None:
            submission.settled |= not decided.change
            points = points + decided.points if decided.change else decided.points
    if submission.settled:
        submission.open_points = 0.0
    submission.points = round(max(0.0, points), _DIGITS)


def _decide(test: TestResult, decided: ManualMark) -> None:
    """Apply what a person has decided about a test."""
    if decided.points is not None and decided.change:
        test.points = round(max(0.0, test.points + decided.points), _DIGITS)
        text = f"{'+' if decided.points >= 0 else '−'}{number(abs(decided.points))} by hand"
    elif decided.points is not None:
        test.points, text = decided.points, f"{number(decided.points)} points by hand"
        if test.state == "open":
            test.state, test.notes = "judged", []
    else:
        text = ""
    test.notes.append(": ".join(filter(None, (text, decided.comment))))


def why_skipped(submission: SubmissionResult, rubric: Rubric, lab: str) -> tuple[str, bool]:
    """The reason why ``lab`` is skipped for this submission; empty if it is not skipped, or if this is not known yet. A lab
    is skipped if something is missing for it, or if another lab has not earned enough points. The labs before it must have
    been marked.

    Open points do not count as earned. But if they might be enough, the lab is not lost either: it is open until the runs
    that it depends on have been judged. The second part of the result says whether the lab is open.
    """
    if lab in submission.missing:
        return submission.missing[lab], False
    for need in rubric.needs(lab):
        tests = [test for test in submission.tests if test.lab == need]
        if not tests or not all(test.state in ("judged", "open", "skipped") for test in tests):
            continue
        earned = sum(test.points for test in tests)
        still_open = sum(test.max_points for test in tests if test.state == "open")
        most = sum(test.max_points for test in tests)
        wanted = rubric.labs[lab].needs_share * most
        lost = any(test.state == "skipped" for test in tests) or earned + still_open < wanted - 1e-9
        if lost:
            return f"skipped: it needs {wanted:g} of {most:g} points in {need}, and {need} has {earned:g}", False
        if earned < wanted - 1e-9:
            has = f"{need} has {earned:g}, and {still_open:g} are open"
            return f"open: it needs {wanted:g} of {most:g} points in {need}, and {has}; run raftgrade again", True
    return "", False


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
            test.notes = ["open: the rubric of the grading run skipped this test; run raftgrade again"]
        return
    test.state = "judged"
    if rubric.rule_for(test.lab, test.name) == "all-or-nothing" and any(
        network.failures and not _whole(network, settings) for network in test.networks
    ):
        return
    short = [network for network in test.networks if 2 * (network.passes + network.failures) < network.runs]
    if short:
        lost = sum(network.errors for network in short)
        runs = sum(network.runs for network in short)
        test.state = "open"
        test.notes = [f"open: {lost} of {count(runs, 'run')} could not be judged; run raftgrade again"]
        return
    earned = test.max_points * _share(test, rubric, settings)
    for note in _exceeded(test, rubric):
        test.notes.append(note)
    if test.notes and earned:
        earned *= rubric.limits_for(test.name).keep
    if test.races and rubric.races.keep < 1:
        test.notes.append(f"{count(test.races, 'race')} found: the test keeps {rubric.races.keep:.0%} of its points")
        earned *= rubric.races.keep
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
    """Notes on the limits that the passing runs in sim exceed. Only sim's measurements are exact, because its time is
    virtual."""
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
