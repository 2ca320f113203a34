"""The findings of the race detector in words: the kinds of findings, and how many of them are kept."""

from __future__ import annotations

import msgspec

# The kinds of findings, with what each means.
KINDS = {
    "race": "two threads use the same data, one of them changes it, and nothing decides which comes first",
    "lock-order": "two threads take the same locks in opposite order, so that each can wait for the other for ever",
    "lock-kept": "a thread has ended and still holds a lock",
    "stale-decision": "a decision is made under one hold of a lock and carried out under a later one",
    "late-message": "a message is made from fields that may have changed since the decision to send it",
    "late-save": "what is saved may be older than what another thread has saved",
    "lost-wakeup": "a thread may wait although what it waits for has happened",
}

# Findings come from the student's process, so they are limited: the number of findings of one run that are kept, and the
# number of characters of a text and of a key.
MAX_FINDINGS = 40
MAX_TEXT = 700
MAX_KEY = 200
# The number of findings that are shown in full; the others are only counted.
SHOWN = 3


class Finding(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        kind: a key of :data:`KINDS`.
        key: findings with equal keys are the same mistake, whatever run they are from.
        text: one sentence: the data, both places, both threads and the locks that they held.
    """

    kind: str
    key: str
    text: str
