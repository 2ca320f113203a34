# ruff: noqa: E501  (changes of the reference, told as they stand there)
"""Proof in small that lab 2B's suite catches what it claims: each known bug, put into the reference, fails a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bugs import Bug, check

_STORE = """            if index <= self._last_index() and self._term_at(index) == entry.term:
                continue
"""
_KEEP = "            self.entries[index - self.base :] = args.entries[index - args.prev_log_index - 1 :]\n"
_SUCCESS = "            return AppendEntriesReply(term=self.current_term, success=True)\n        # skeleton"
_COMMIT = "            self._commit(min(args.leader_commit, args.prev_log_index + len(args.entries)))\n"

BUGS = {
    "el-no-log-check": Bug(
        "newer_log_table",
        "expected no vote from S0 (log: terms 1 3) for a candidate whose log ends with the same term and is shorter",
        {"                and self._is_up_to_date(args.last_log_term, args.last_log_index)\n": ""},
    ),
    "el-log-length-only": Bug(
        "newer_log_table",
        "expected no vote from S0 (log: terms 1 3) for a candidate whose log is longer, but ends with an older term",
        {"(last_term, last_index) >= (self.entries[-1].term, self._last_index())": "last_index >= self._last_index()"},
    ),
    "el-log-term-only": Bug(
        "newer_log_table",
        "expected no vote from S0 (log: terms 1 3) for a candidate whose log ends with the same term and is shorter",
        {
            "(last_term, last_index) >= (self.entries[-1].term, self._last_index())": "last_term >= self.entries[-1].term"
        },
    ),
    "el-log-and": Bug(
        "longer_log_is_not_newer",
        "expected 'the two that are left' to be applied by 2 servers within 10 s, but it was not",
        {
            "(last_term, last_index) >= (self.entries[-1].term, self._last_index())": "last_term >= self.entries[-1].term and last_index >= self._last_index()"
        },
    ),
    "el-log-strict": Bug(
        "basic_agreement",
        "expected 'command 1' to be applied by 3 servers",
        {
            "(last_term, last_index) >= (self.entries[-1].term, self._last_index())": "(last_term, last_index) > (self.entries[-1].term, self._last_index())"
        },
    ),
    "rp-commit-old-term": Bug(
        "old_entries_are_not_counted",
        "expected nobody to apply index 1, which is of term 10 while S0 leads term",
        {" and self._term_at(index) == self.current_term:\n            self._commit": ":\n            self._commit"},
    ),
    "rp-commit-no-min": Bug(
        "commit_only_what_is_proved",
        "expected nobody to apply index 1, which the leader's message did not check",
        {_COMMIT: "            self._commit(min(args.leader_commit, self._last_index()))\n"},
    ),
    "rp-match-from-leader-len": Bug(
        "a_reply_proves_what_was_sent",
        "expected nobody to apply index",
        {
            "self._matched(server, args.prev_log_index + len(args.entries))": "self._matched(server, self._last_index())",
        },
    ),
    "rp-ack-last-index": Bug(
        "messages_of_the_past",
        "expected 'all' to be applied by 3 servers",
        {
            "    conflict_index: int | None = None\n": "    conflict_index: int | None = None\n    matched: int | None = None\n",
            _SUCCESS: _SUCCESS.replace("success=True", "success=True, matched=self._last_index()"),
            "self._matched(server, args.prev_log_index + len(args.entries))": "self._matched(server, args.prev_log_index + len(args.entries) if reply.matched is None else min(reply.matched, self._last_index()))",
        },
    ),
    "rp-truncate-always": Bug(
        "append_table",
        "expected S0 to have term 1 at index 2 afterwards, but it has not (an empty log:",
        {
            _STORE: "",
            "            self._store(args)\n": "            del self.entries[args.prev_log_index + 1 - self.base :]\n            self._store(args)\n",
        },
    ),
    "rp-no-truncate-tail": Bug(
        "append_table",
        "expected S0 to drop everything behind a conflict, but index 3 is there (a conflict at the first entry",
        {
            _KEEP: "            new = args.entries[index - args.prev_log_index - 1 :]\n            self.entries[index - self.base : index - self.base + len(new)] = new\n"
        },
    ),
    "rp-keep-conflict": Bug(
        "append_table",
        "expected S0 to have term 1 at index 1 afterwards, but it has not (a log that is too short:",
        {
            "            if index <= self._last_index() and self._term_at(index) == entry.term:": "            if index <= self._last_index():"
        },
    ),
    "rp-prev-index-only": Bug(
        "append_table",
        "expected a refusal, but saw success (another term at prev_log_index",
        {"        if index <= self.base or self._term_at(index) == args.prev_log_term:": "        if True:"},
    ),
    "rp-heartbeat-skips-prev": Bug(
        "append_table",
        "expected a refusal, but saw success (a heartbeat beyond the log",
        {"            if refusal is not None:": "            if refusal is not None and args.entries:"},
    ),
    "rp-stale-ack": Bug(
        "replies_of_an_old_term",
        "expected nobody to apply index",
        {
            "            if self.role != LEADER or self.current_term != args.term:\n                return\n            if reply.success": "            if self.role != LEADER:\n                return\n            if reply.success"
        },
    ),
    "rp-match-init-last": Bug(
        "rejoin",
        "expected 'the first is back' to be applied by 2 servers",
        {
            "                self.match_index[server] = 0\n": "                self.match_index[server] = self._last_index()\n"
        },
    ),
    "rp-backtrack-by-one": Bug(
        "fast_backup",
        "expected S",
        {"        if reply.conflict_index is not None:": "        if False:"},
    ),
    "rp-conflict-hint-stuck": Bug(
        "backup",
        "expected 'good d' to be applied by 3 servers",
        {
            "conflict_term=term, conflict_index=index)": "conflict_term=None, conflict_index=self._last_index() + 1)",
            "        index = self.next_index[server] - 1\n        if reply": "        index = self.next_index[server]\n        if reply",
        },
    ),
    "rp-next-underflow": Bug(
        "fast_backup",
        "expected S",
        {
            "self.next_index[server] = max(index, self.match_index[server] + 1)": "self.next_index[server] = index",
            "            elif args.prev_log_index == self.next_index[server] - 1:": "            else:",
            "        if reply.conflict_index is not None:": "        if False:",
            "first = max(self.next_index[server], self.base + 1)": "first = self.next_index[server]",
        },
    ),
    "rp-no-commit-on-heartbeat": Bug(
        "basic_agreement",
        "expected 'command 1' to be applied by 3 servers",
        {_COMMIT: "            if args.entries:\n    " + _COMMIT},
    ),
    "rp-append-after-stepdown": Bug(
        "start_while_stepping_down",
        "expected S0 to take a command in term",
        {
            "            self._append(LogEntry(self.current_term, command))\n            return": "        with self.lock:\n            self._append(LogEntry(self.current_term, command))\n            return"
        },
        seeds=10,
    ),
    "rp-serial-rpc": Bug(
        "dead_follower",
        "expected S",
        {
            "                    threading.Thread(target=self._send_append, args=(server, args), daemon=True).start()\n                # region": "                    to_all.append((server, args))\n                # region",
            "                for server in self._others():\n                    # region 2B: a heartbeat obeys": "                to_all = []\n                for server in self._others():\n                    # region 2B: a heartbeat obeys",
            "            time.sleep(HEARTBEAT_EVERY)\n": "            for each in to_all:\n                self._send_append(*each)\n            time.sleep(HEARTBEAT_EVERY)\n",
        },
    ),
    "rp-rpc-flood": Bug(
        "leader_failure",
        "expected S",
        {"        if since is not None and time.monotonic() < since + RESEND_AFTER:\n            return False\n": ""},
    ),
    "rp-apply-under-lock": Bug(
        "slow_service",
        "expected the others to apply 4 commands within 4 s while S",
        {
            "            for message in messages:\n                self.apply_ch.put(message)\n": "                for message in messages:\n                    self.apply_ch.put(message)\n"
        },
    ),
    "rp-apply-race": Bug(
        "slow_service",
        "expected S",
        {
            "        threading.Thread(target=self._apply_loop, daemon=True).start()\n": "        threading.Thread(target=self._apply_loop, daemon=True).start()\n        threading.Thread(target=self._apply_loop, daemon=True).start()\n"
        },
    ),
    "start-index-too-low": Bug(
        "basic_agreement",
        "expected 'command 1' at index 0, as start() said, but it is at 1",
        {
            "            return self._last_index(), self.current_term, True": "            return self._last_index() - 1, self.current_term, True"
        },
    ),
    "rp-commit-minority": Bug(
        "follower_failure",
        "expected a majority to have stored index 1 before S",
        {"        return have[(len(have) - 1) // 2]": "        return have[-1]"},
    ),
    "rp-accept-old-leader": Bug(
        "leader_keeps_its_log",
        "expected S0 to refuse a leader of term 0",
        {
            "            if args.term < self.current_term:\n                # A leader": "            if False:\n                # A leader"
        },
    ),
    "rp-sends-everything": Bug(
        "rpc_bytes",
        "expected at most",
        {
            "entries=self.entries[first - self.base : first - self.base + most],": "entries=self.entries[first - self.base : first - self.base + MAX_BATCH],",
            "        first = max(self.next_index[server], self.base + 1)": "        first = 1",
        },
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught(name: str, tmp_path: Path) -> None:
    check(BUGS[name], tmp_path)
