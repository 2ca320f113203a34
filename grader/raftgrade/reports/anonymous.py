"""A report with codes instead of names, for people who mark work without knowing whose it is."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable

import msgspec

from raftgrade.reports.student_view import local
from raftgrade.results import Report


def codes(key: bytes, names: Iterable[str]) -> dict[str, str]:
    """A code for each submission, by the submission's name. With the same key, a name always has the same code. Nobody can
    compute the code without the key."""
    found: dict[str, str] = {}
    for name in names:
        digest = base64.b32encode(hmac.digest(key, b"code\n" + name.encode(), "sha256")).decode()
        length = next(length for length in range(6, len(digest)) if digest[:length] not in found.values())
        found[name] = digest[:length]
    return found


def anonymous(report: Report, code_of: dict[str, str]) -> Report:
    """A copy of ``report`` with codes instead of names, sorted by these codes. Names that students wrote into their programs
    are not removed, so the report may still show who they are."""
    copy = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    for submission in copy.submissions:
        submission.name = submission.slug = code_of[submission.name]
        submission.problems = [
            msgspec.structs.replace(each, text=each.text.replace(submission.path or "\0", "the submission"))
            for each in submission.problems
        ]
        submission.path = submission.id = submission.prefix = submission.hash = ""
        submission.students = []
        for bad in (bad for test in submission.tests for network in test.networks for bad in network.bad):
            bad.replay, bad.trace = local(bad.replay, copy.settings.raft), ""
    copy.submissions.sort(key=lambda submission: submission.name)
    copy.same_code = [
        msgspec.structs.replace(
            each, places=[msgspec.structs.replace(place, submission=code_of[place.submission]) for place in each.places]
        )
        for each in copy.same_code
    ]
    return copy
