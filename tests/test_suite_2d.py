# ruff: noqa: E501  (changes of the reference, told as they stand there)
"""Proof in small that lab 2D's suite catches what it claims: each known bug, put into the reference, fails a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bugs import Bug, check

_NEWER = "        if new.index <= self.commit_index:\n            return\n"
_AGREES = "        if new.index <= self._last_index() and self._term_at(new.index) == new.index_term:\n"
_COVERED = "        if index <= self.base or self._term_at(index) == args.prev_log_term:\n            return None\n"
_SAVED = "        self.persister.save(state.encode(), snapshot)\n"
_ORDER = "        if args.offset != known.offset:\n            return None\n"
_MATCHED = "                self._matched(server, transfer.index)\n"
_THERE = "            if self.base < index <= self.last_applied:\n"

BUGS = {
    "sn-discard-all": Bug(
        "log_meets_snapshot",
        "expected S0 to keep index 73, which it had acknowledged, when a snapshot up to 70 came, but it has lost it",
        {_AGREES: "        if False:\n"},
    ),
    "sn-stale-regresses": Bug(
        "log_meets_snapshot",
        "expected S0 to go on from index 25, but it applied a snapshot up to 22",
        {_NEWER: "        if new.index <= self.base:\n            return\n"},
    ),
    "sn-older-than-the-log": Bug(
        "log_meets_snapshot",
        "S0: an exception nobody caught in the install_snapshot handler: IndexError",
        {_NEWER: ""},
    ),
    "sn-keeps-conflicting-tail": Bug(
        "log_meets_snapshot",
        "expected S0 to refuse a candidate whose log ends with index 110 of term 49, after a snapshot of term 50 met a longer log that conflicts with it",
        {_AGREES: "        if new.index <= self._last_index():\n"},
    ),
    "sn-sets-term": Bug(
        "votes_after_snapshot",
        "expected S0 to vote once in term",
        {
            "        self._persist(new.data)\n": "        self.current_term = new.index_term\n        self._persist(new.data)\n"
        },
    ),
    "sn-clears-vote": Bug(
        "votes_after_snapshot",
        "expected S0 to vote once in term",
        {"        self._persist(new.data)\n": "        self.voted_for = None\n        self._persist(new.data)\n"},
    ),
    "sn-boundary-off-by-one": Bug(
        "snapshot_boundary",
        "expected S",
        {"if self.next_index[server] <= self.base:": "if self.next_index[server] < self.base:"},
    ),
    "sn-purged-prev-is-conflict": Bug(
        "late_entries_below_snapshot",
        "expected S0 to keep index 15, which it had acknowledged, after a heartbeat, but it has lost it",
        {
            _COVERED: (
                "        if index < self.base:\n"
                "            del self.entries[1:]\n"
                "            self._persist()\n"
                "            return AppendEntriesReply(self.current_term, False, conflict_index=self.base + 1)\n"
                "        if self._term_at(index) == args.prev_log_term:\n            return None\n"
            )
        },
    ),
    "sn-last-term-lost": Bug(
        "votes_after_snapshot",
        "expected S0 to refuse a candidate whose log ends with index 19 of term 10",
        {
            "        self.entries = [LogEntry(term, None), *rest]\n": "        self.entries = [LogEntry(0, None), *rest]\n"
        },
    ),
    "sn-last-term-lost-installed": Bug(
        "votes_after_snapshot",
        "expected S0 to refuse a candidate whose log ends with index 9 of term 5",
        {
            "            self.entries = [LogEntry(new.index_term, None)]\n": "            self.entries = [LogEntry(0, None)]\n"
        },
    ),
    "sn-meta-not-persisted": Bug(
        "crash_while_cutting",
        "expected S0 to apply the 5020 bytes of the snapshot up to 30, not other bytes",
        {_SAVED: "        if snapshot:\n            self.persister.save(self.persister.state(), snapshot)\n" + _SAVED},
    ),
    "sn-meta-first": Bug(
        "crash_while_cutting",
        "expected S0 to apply the 5020 bytes of the snapshot up to 40, not other bytes",
        {_SAVED: "        self.persister.save(state.encode())\n        if snapshot:\n    " + _SAVED},
    ),
    "sn-meta-not-persisted-install": Bug(
        "crash_while_installing",
        "expected S0 to apply the 6020 bytes of the snapshot up to 36, not other bytes",
        {_SAVED: "        if snapshot:\n            self.persister.save(self.persister.state(), snapshot)\n" + _SAVED},
    ),
    "sn-meta-first-install": Bug(
        "crash_while_installing",
        "expected S0 to apply the 6020 bytes of the snapshot up to 50, not other bytes",
        {_SAVED: "        self.persister.save(state.encode())\n        if snapshot:\n    " + _SAVED},
    ),
    "sn-install-not-persisted": Bug(
        "crash_while_installing",
        "expected S0 to apply the 6020 bytes of the snapshot up to 36, not 0 bytes",
        {"        self._persist(new.data)\n": ""},
    ),
    "sn-install-saves-log-only": Bug(
        "crash_while_installing",
        "expected S0 to apply the 6020 bytes of the snapshot up to 50, not 0 bytes",
        {"        self._persist(new.data)\n": "        self._persist()\n"},
    ),
    "sn-acked-before-saved": Bug(
        "chunks_in_any_order",
        "expected S0 to apply the 10021 bytes of the snapshot up to 250, not other bytes",
        {
            "        self._persist(new.data)\n": "        def late():\n            time.sleep(0.05)\n            with self.lock:\n                self._persist(new.data)\n        threading.Thread(target=late, daemon=True).start()\n"
        },
    ),
    "sn-restart-from-zero": Bug(
        "snapshot_all_restart",
        "expected S",
        {
            "            self.commit_index = self.base\n            self.to_restore": "            self.commit_index = self.last_applied = self.base\n            _"
        },
    ),
    "sn-taken-at-commit": Bug(
        "snapshot_after_crash",
        "expected a snapshot that some service has taken, but S",
        {
            "                self._cut_log(index, self._term_at(index))\n": "                self._cut_log(self.commit_index, self._term_at(self.commit_index))\n"
        },
    ),
    "sn-concurrent-apply": Bug(
        "snapshot_overtakes_entries",
        "expected S0 to apply index",
        {
            "                while self.last_applied < self.commit_index:\n                    self.last_applied += 1\n                    entry = self.entries[self.last_applied - self.base]\n                    message = ApplyMsg(self.last_applied, entry.term, entry.command, kind=entry.kind)\n                    messages.append(message)\n": "                for at in range(self.last_applied + 1, self.commit_index + 1):\n                    entry = self.entries[at - self.base]\n                    messages.append(ApplyMsg(at, entry.term, entry.command, kind=entry.kind))\n",
            "                self.apply_ch.put(message)\n": "                self.apply_ch.put(message)\n                self.last_applied = message.index\n",
            "        self.to_restore = self._snapshot_message(new.data)\n        self._commit(new.index)\n": "        self.last_applied = self.commit_index = new.index\n        self.apply_ch.put(self._snapshot_message(new.data))\n",
        },
        seeds=12,
    ),
    "sn-reply-match-base": Bug(
        "snapshot_in_chunks",
        "expected S",
        {_MATCHED: "                self._matched(server, self.base)\n"},
    ),
    "sn-reply-match-last": Bug(
        "snapshot_reply_proves",
        "expected a majority to have stored index",
        {_MATCHED: "                self._matched(server, self._last_index())\n"},
    ),
    "sn-transfer-changes": Bug(
        "snapshot_in_chunks",
        "expected the snapshot's own bytes, but S",
        {"chunk = transfer.data[transfer.offset : ": "chunk = self.persister.snapshot()[transfer.offset : "},
    ),
    "sn-instead-of-entries": Bug(
        "entries_if_they_are_there",
        "expected S",
        {
            "        self.next_index[server] = max(index, self.match_index[server] + 1)\n        self.to": "        self.next_index[server] = min(self.base or index, index)\n        self.to"
        },
    ),
    "sn-log-not-cut": Bug(
        "snapshots_basic",
        "expected S",
        {_THERE: "            if False:\n"},
    ),
    "sn-old-call": Bug(
        "old_snapshot_calls",
        "S0: an exception nobody caught in snapshot(): IndexError",
        {_THERE: "            if index <= self.last_applied:\n"},
    ),
    "ch-too-big": Bug(
        "snapshot_in_chunks",
        "expected at most 4096 bytes in one message, but S",
        {"SNAPSHOT_CHUNK = 4096": "SNAPSHOT_CHUNK = 100_000"},
    ),
    "ch-any-order": Bug(
        "chunks_in_any_order",
        "expected S0 to apply the 10",
        {_ORDER: ""},
    ),
    "ch-written-at-offset": Bug(
        "chunks_in_any_order",
        "expected S0 to apply the 10",
        {
            _ORDER: "        if args.offset == 0:\n            known.data = b''\n        known.data, known.offset = known.data[: args.offset].ljust(args.offset), args.offset\n"
        },
    ),
    "ch-of-any-snapshot": Bug(
        "chunks_in_any_order",
        "expected S0 to apply the ",
        {
            "(known.term, known.index) != (args.term, args.last_included_index):": "known.term != args.term or args.offset == 0:"
        },
    ),
    "ch-of-any-leader": Bug(
        "chunks_in_any_order",
        "expected S0 to apply the 10021 bytes of the snapshot up to 140, not other bytes",
        {
            "(known.term, known.index) != (args.term, args.last_included_index):": "known.index < args.last_included_index:"
        },
    ),
    "ch-only-newer": Bug(
        "chunks_in_any_order",
        "expected S0 to apply the snapshot up to 250, sent in order after chunks cut short by a new leader with an older snapshot",
        {
            "(self.incoming.term, self.incoming.index) > (known.term, known.index):": "self.incoming.index > known.index:"
        },
    ),
    "ch-never-again": Bug(
        "snapshot_in_chunks",
        "expected S",
        {
            "        self.in_flight[server] = (args, time.monotonic())\n        threading.Thread(target=self._send_install": "        transfer.offset += len(chunk)\n        self.in_flight[server] = (args, time.monotonic())\n        threading.Thread(target=self._send_install",
            "            transfer.offset = end if reply.received is None else reply.received\n": "",
        },
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught(name: str, tmp_path: Path) -> None:
    check(BUGS[name], tmp_path)
