# ruff: noqa: E501  (changes of the reference, told as they stand there)
"""Proof in small that lab 2C's suite catches what it claims: each known bug, put into the reference, fails a test.

One seed is enough for each of them, but for `rp-truncate-always`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bugs import Bug, check

_SAVE = "        self.persister.save(state.encode(), snapshot)\n"
_VOTE = "        self.voted_for = candidate\n        # region 2C: a vote given and forgotten could be given twice\n        self._persist()\n"
_STORED = "            # region 2C: the answer promises that these entries stay\n            self._persist()\n"
_KEEP = "            self.entries[index - self.base :] = args.entries[index - args.prev_log_index - 1 :]\n"
_MATCHES = """            if index <= self._last_index() and self._term_at(index) == entry.term:
                continue
"""
_OWN = "        # region 2C: what is on no disk must not be counted\n        self._persist()\n"
_LOADED = "            self.entries = [LogEntry(*entry) for entry in entries]\n"
_SAVED_FIELDS = "(self.current_term, self.voted_for, self.base, entries)"

_LATER = "        threading.Timer(0.005, self._persist).start()\n"
_NOTED = "except OSError:\n            log('disk', 'failed')\n"

_TWO_VOTES = "expected S0 to vote once in term 1000, but it voted for S1 and then, after a restart, for S2"
_OWN_AND_ANOTHER = "expected S0 to vote once in term 1, but it voted for itself and then, after a restart, for S1"
_GONE = "expected S0 still to have its entry of term "

BUGS = {
    # --- what is not saved at all ---
    "ps-no-votedfor": Bug(
        "vote_survives",
        _TWO_VOTES,
        {_SAVED_FIELDS: "(self.current_term, None, self.base, entries)"},
    ),
    "ps-no-term": Bug(
        "vote_survives",
        _TWO_VOTES,
        {_LOADED: _LOADED + "            self.current_term = 0\n"},
    ),
    "ps-term-of-the-log": Bug(
        "vote_survives",
        _TWO_VOTES,
        {_LOADED: _LOADED + "            self.current_term = self.entries[-1].term\n"},
    ),
    "ps-no-log": Bug("log_survives", _GONE + "100 at index 1", {_LOADED: ""}),
    "ps-entry-terms-lost": Bug(
        "log_survives",
        "expected S0 to replace the entry at index 2, but it refused",
        {
            _LOADED: "            self.entries = [LogEntry(0, None)] + [LogEntry(self.current_term, *entry[1:]) for entry in entries[1:]]\n"
        },
    ),
    # --- saved, but not everywhere ---
    "ps-vote-not-saved": Bug(
        "vote_survives",
        _TWO_VOTES,
        {
            "                self._vote_for(args.candidate_id)\n": "                self.voted_for = args.candidate_id\n",
        },
    ),
    "ps-self-vote-not-saved": Bug(
        "own_vote_survives",
        _OWN_AND_ANOTHER,
        {"        self._vote_for(self.me)\n": "        self.voted_for = self.me\n"},
    ),
    "ps-term-not-saved": Bug(
        "vote_survives",
        "expected S0's term to stay at 1500 or grow, but get_state() now says 1000",
        {"            self._vote_for(None)\n": "            self.voted_for = None\n"},
    ),
    "ps-append-not-saved": Bug("log_survives", _GONE + "100 at index 1", {_STORED: ""}),
    "ps-own-entry-not-saved": Bug("own_crash_points", _GONE, {_OWN: ""}),
    "ps-restore-saves-defaults": Bug(
        "vote_survives",
        "expected S0 to vote once in term 3000, but it voted for S1 and then, after a restart, for S2",
        {
            _LOADED: _LOADED
            + "            vote, self.voted_for = self.voted_for, None\n            self._persist()\n            self.voted_for = vote\n"
        },
    ),
    # --- saved too late, or in two steps ---
    "ps-append-saved-before": Bug(
        "log_survives", _GONE + "100 at index 1", {_KEEP: "            self._persist()\n" + _KEEP, _STORED: ""}
    ),
    "ps-reply-before-persist (vote)": Bug(
        "crash_points",
        "expected S0 to save its vote for S2 in term 1100 before it answers",
        {_VOTE: "        self.voted_for = candidate\n" + _LATER},
    ),
    "ps-reply-before-persist (entries)": Bug("crash_points", _GONE, {_STORED: "    " + _LATER}),
    "ps-reply-beside-persist": Bug(
        "crash_points",
        "expected S0 to save index 4 of term",
        {_STORED: "            threading.Thread(target=self._persist, daemon=True).start()\n"},
    ),
    "ps-ask-before-persist": Bug(
        "own_crash_points",
        _OWN_AND_ANOTHER,
        {"        self._vote_for(self.me)\n": "        self.voted_for = self.me\n" + _LATER},
    ),
    "ps-nonatomic-truncate-append": Bug(
        "crash_points",
        _GONE,
        {
            _MATCHES: "",
            _KEEP: "            del self.entries[index - self.base :]\n            self._persist()\n" + _KEEP,
        },
    ),
    "ps-leader-counts-unsynced": Bug("own_crash_points", _GONE, {_OWN: _LATER}),
    # --- what is volatile ---
    "ps-commit-restored-to-last": Bug(
        "restart_commits_nothing",
        "expected S0 to apply nothing after its restart, as no leader said that anything is committed, but it did",
        {_LOADED: _LOADED + "            self.commit_index = self._last_index()\n"},
    ),
    "ps-last-applied-saved": Bug(
        "restarts",
        "expected S",  # one of the three "to apply index 1 next, but it applied index 3"
        {
            _SAVED_FIELDS: "(self.current_term, self.voted_for, self.base, entries, self.last_applied)",
            "self.base, entries = json.loads(state)": "self.base, entries, self.last_applied = json.loads(state)",
        },
    ),
    # --- the disk fails ---
    "ps-disk-error-acked": Bug(
        "failed_save",
        "expected S0's term to stay at 2100 or grow, but get_state() now says 2000",
        {_SAVE: "        try:\n    " + _SAVE + "        " + _NOTED},
    ),
    "ps-disk-error-acked (leader)": Bug(
        "failed_saves_in_a_cluster",
        "expected S",
        {_OWN: "        try:\n            self._persist()\n        " + _NOTED},
    ),
    "ps-disk-error-acked (follower)": Bug(
        "failed_saves_in_a_cluster",
        "expected S",
        {
            _STORED: "            try:\n                self._persist()\n            except OSError:\n                pass\n"
        },
    ),
    # --- of lab 2B, but seen again here ---
    "rp-commit-old-term": Bug(
        "figure_8_in_steps",
        "expected S",  # "... to apply 'the older' at index 2 as S2 did, but it applied 'the newer'"
        {" and self._term_at(index) == self.current_term:\n            self._commit": ":\n            self._commit"},
    ),
    "rp-no-truncate-tail": Bug(
        "log_survives",
        "expected S0 to have no entry at index 3 since the one at index 2 was replaced, but it still has it",
        {
            _KEEP: (
                "            new = args.entries[index - args.prev_log_index - 1 :]\n"
                "            self.entries[index - self.base : index - self.base + len(new)] = new\n"
            )
        },
    ),
    "rp-keep-conflict": Bug(
        "log_survives",
        _GONE + "500 at index 2",
        {_MATCHES: "            if index <= self._last_index():\n                continue\n"},
    ),
    "rp-truncate-always": Bug(
        "unreliable_agreement",
        "expected 'last' to be applied by 5 servers within 10 s, but it was not",
        {_MATCHES: ""},
    ),
    "rp-prev-index-only": Bug(
        "figure_8_in_steps",
        "expected S",
        {"if index <= self.base or self._term_at(index) == args.prev_log_term:": "if True:"},
    ),
    "el-log-term-only": Bug(
        "changing_majorities",
        "expected S",
        {
            "(last_term, last_index) >= (self.entries[-1].term, self._last_index())": "last_term >= self.entries[-1].term"
        },
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught(name: str, tmp_path: Path) -> None:
    check(BUGS[name], tmp_path)
