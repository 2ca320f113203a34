"""The part of a report that a student may see. Of hidden runs, a student may see how many there were and what failed, but
no seed, and nothing that reveals a seed."""

from __future__ import annotations

import shlex

import msgspec

from raftgrade.results import BadRun, NetworkResult, Report, SubmissionResult
from raftgrade.students import Finder
from raftlab.explain.failure import Failure
from raftlab.safe_text import printable


class NoSuchStudent(Exception):
    """No submission has that name, or several have. The message lists some names."""


def only(report: Report, name: str) -> Report:
    """The report of one submission, for its author. Raises :class:`NoSuchStudent`.

    Args:
        name: the submission's name, or the id, login, e-mail address or name of an author.
    """
    chosen = Finder(report.submissions, lambda each: each.path).find(name)
    if len(chosen) > 1:
        names = ", ".join(printable(each.name) for each in chosen)
        raise NoSuchStudent(f"{printable(name)!r} may be any of these submissions: {names}")
    if not chosen:
        names = ", ".join(printable(each.name) for each in report.submissions[:5])
        more = ", …" if len(report.submissions) > 5 else ""
        raise NoSuchStudent(f"there is no submission {printable(name)!r} in this report; there are: {names}{more}")
    return for_students(msgspec.structs.replace(report, submissions=chosen))


def for_students(report: Report) -> Report:
    """A copy of ``report`` without what students must not see."""
    copy = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    copy.settings = msgspec.structs.replace(copy.settings, hidden=None)
    copy.same_code, copy.options = [], {}
    for submission in copy.submissions:
        _clean(submission, copy.settings.raft)
    return copy


def _clean(submission: SubmissionResult, raft: str) -> None:
    submission.path = "kv.py" if raft else "raft.py"
    if submission.state == "unjudged":
        # Students need not know where the grader keeps its logs.
        submission.problems = [msgspec.structs.replace(problem, where="") for problem in submission.problems]
    for test in submission.tests:
        for network in test.networks:
            if network.hidden:
                _hide(network)
            for bad in network.bad:
                bad.replay = local(bad.replay, raft)
                if bad.outcome == "error":
                    bad.failure = Failure(bad.failure.kind, "this run could not be judged, and costs no points")
                elif bad.failure.kind == "never-reported":
                    bad.failure.detail = ""  # it held the end of the grader's log


def local(replay: str, raft: str = "") -> str:
    """The replay command without the path of the grader's copy.

    Args:
        raft: the Raft that the copy has instead of the student's own, if any.
    """
    try:
        words = shlex.split(replay)
    except ValueError:
        return ""  # not a command of raftlab
    if "--impl" in words:
        place = words.index("--impl")
        words[place : place + 2] = ["--raft", raft] if raft else []
    return shlex.join(words)


def _hide(network: NetworkResult) -> None:
    network.seeds = (0, network.runs)
    network.bad = [_hidden(place, bad) for place, bad in enumerate(network.bad)]


def _hidden(place: int, bad: BadRun) -> BadRun:
    failure = bad.failure
    text = failure.text.replace(str(bad.seed), "(hidden)")
    shown = Failure(failure.kind, text, failure.rule, failure.where)
    return BadRun(seed=place, outcome=bad.outcome, sort=bad.sort, failure=shown)
