"""The part of a report that a student may see. For hidden runs, that is how many there were and what failed, but no seed,
and nothing that reveals a seed."""

from __future__ import annotations

import shlex

import msgspec

from raftgrade.results import BadRun, NetworkResult, Report, SubmissionResult
from raftlab.explain.failure import Failure
from raftlab.safe_text import printable


class NoSuchStudent(Exception):
    """No submission has that name. The message lists some names."""


def only(report: Report, name: str) -> Report:
    """The report of one submission, for its author. Raises :class:`NoSuchStudent`."""
    chosen = [each for each in report.submissions if name in (each.name, each.slug)]
    if not chosen:
        names = ", ".join(printable(each.name) for each in report.submissions[:5])
        more = ", …" if len(report.submissions) > 5 else ""
        raise NoSuchStudent(f"there is no submission {printable(name)!r} in this report; there are: {names}{more}")
    return for_students(msgspec.structs.replace(report, submissions=chosen[:1]))


def for_students(report: Report) -> Report:
    """A copy of ``report`` without what students must not see."""
    copy = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    copy.settings = msgspec.structs.replace(copy.settings, hidden=None)
    for submission in copy.submissions:
        _clean(submission)
    return copy


def _clean(submission: SubmissionResult) -> None:
    submission.path = "raft.py"
    if submission.state == "unjudged":
        # Students need not know where the grader keeps its logs.
        submission.problems = [msgspec.structs.replace(problem, where="") for problem in submission.problems]
    for test in submission.tests:
        for network in test.networks:
            if network.hidden:
                _hide(network)
            for bad in network.bad:
                bad.replay = local(bad.replay)
                if bad.outcome == "error":
                    bad.failure = Failure(bad.failure.kind, "this run could not be judged, and costs no points")
                elif bad.failure.kind == "never-reported":
                    bad.failure.detail = ""  # the end of the grader's log


def local(replay: str) -> str:
    """The replay command without the path of the grader's copy."""
    try:
        words = shlex.split(replay)
    except ValueError:
        return ""  # not a command of ours
    if "--impl" in words:
        place = words.index("--impl")
        del words[place : place + 2]
    return shlex.join(words)


def _hide(network: NetworkResult) -> None:
    network.seeds = (0, network.runs)
    network.bad = [_hidden(place, bad) for place, bad in enumerate(network.bad)]


def _hidden(place: int, bad: BadRun) -> BadRun:
    failure = bad.failure
    text = failure.text.replace(str(bad.seed), "(hidden)")
    shown = Failure(failure.kind, text, failure.rule, failure.where)
    return BadRun(seed=place, outcome=bad.outcome, sort=bad.sort, failure=shown)
