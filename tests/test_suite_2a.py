# ruff: noqa: E501  (changes of the reference, told as they stand there)
"""Proof in small that lab 2A's suite catches what it claims: each known bug, put into the reference, fails a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bugs import Bug, check

BUGS = {
    "el-double-vote": Bug(
        "who_gets_a_vote",
        "expected S0 to vote once in term 1000, but it voted for S1 and then for S2",
        {"                and self.voted_for in (None, args.candidate_id)\n": ""},
    ),
    "el-vote-cleared-same-term": Bug(
        "who_gets_a_vote",
        "expected S0 to vote once in term 1001, but it voted for S3 and then for S4",
        {
            "        self.role = FOLLOWER\n        self._restart": "        self.role, self.voted_for = FOLLOWER, None\n        self._restart"
        },
    ),
    "el-votedfor-not-cleared": Bug(
        "survivors",
        "expected a leader within 5 s, but there is none",
        {"            self._vote_for(None)\n": ""},
    ),
    "el-dup-vote-counted": Bug(
        "votes_counted_once",
        "expected S0 not to lead term",
        {
            "self.votes = {self.me}": "self.votes = [self.me]",
            "self.votes.add(server)": "self.votes.append(server)",
            "len(servers & self.members) * 2": "len(servers) * 2",
            # A candidate may ask again within its term; then a voter is heard twice.
            'reply = self.peers[server].call("request_vote", args)': (
                'self.peers[server].call("request_vote", args) and time.sleep(0.01)\n'
                '        reply = self.peers[server].call("request_vote", args)\n'
                '        again = self.peers[server].call("request_vote", args)\n'
                "        if again is not None and again.vote_granted and self.current_term == args.term:\n"
                "            self.votes.append(server)"
            ),
        },
    ),
    "el-majority-half": Bug(
        "even_cluster",
        "expected no leader without a majority, but S",
        {"* 2 > len(self.members)": "* 2 >= len(self.members)"},
    ),
    "el-timer-reset-any-rv": Bug(
        "old_messages_do_not_calm",
        "expected S0 to start an election although an old leader keeps talking",
        {
            "            self._see_term(args.term)\n            granted": (
                "            self._see_term(args.term)\n            self._restart_election_timer()\n            granted"
            )
        },
    ),
    "el-timer-not-reset-on-grant": Bug(
        "right_events_calm",
        "expected S0 to stay calm while it gives votes to others, but it campaigns",
        {'                self._restart_election_timer()\n                log("vote"': '                log("vote"'},
    ),
    "el-stale-leader-resets-timer": Bug(
        "old_messages_do_not_calm",
        "expected S0 to start an election although an old leader keeps talking",
        {
            "            if args.term < self.current_term:\n                # A leader": "            self._restart_election_timer()\n            if args.term < self.current_term:\n                # A leader"
        },
    ),
    "el-fixed-timeout": Bug(
        "split_vote",
        "expected a leader within 5 s, but there is none",
        {"deadline = time.monotonic() + random.uniform(*ELECTION_TIMEOUT)": "deadline = time.monotonic() + 0.5"},
    ),
    "el-candidate-stuck": Bug(
        "late_vote",
        "expected S0 to start another election, above term 1, within 5 s, but it did not",
        {
            "while self.role == LEADER or": "while self.role != FOLLOWER or",
            "None if self.role == LEADER else": "None if self.role != FOLLOWER else",
        },
    ),
    "el-accept-old-ae": Bug(
        "old_messages_do_not_calm",
        "expected S0 to refuse a leader of term 3, but it said success",
        {
            "            if args.term < self.current_term:\n                # A leader": "            if False:\n                # A leader"
        },
    ),
    "el-late-vote-counted": Bug(
        "late_vote",
        "expected S0 not to lead term 2: the only vote it was given is one of the past, of term 1",
        {" and self.current_term == args.term:": ":"},
    ),
    "el-reply-term-ignored": Bug(
        "higher_terms",
        "expected S0 to start another election, above term 100, within 5 s, but it did not",
        {"            self._see_term(reply.term)\n            # The answer": "            # The answer"},
    ),
    "el-old-candidate-served": Bug(
        "who_gets_a_vote",
        "expected S0 to vote once in term 1001, but it voted for S3 and then for S4",
        {"                args.term == self.current_term\n                and": "               "},
    ),
    "el-timer-dead-after-stepdown": Bug(
        "higher_terms",
        "expected S0 to start another election, above term 11",
        {"            self.role = FOLLOWER\n            self.changed.notify_all()": "            self.role = FOLLOWER"},
    ),
    "el-heartbeat-flood": Bug(
        "heartbeat_rate",
        "expected about ten heartbeats a second to each server, but saw 50",
        {"HEARTBEAT_EVERY = 0.1": "HEARTBEAT_EVERY = 0.02"},
    ),
    "el-heartbeats-one-by-one": Bug(
        "many_elections",
        "expected a leader within 5 s, but there is none",
        {
            "threading.Thread(target=self._ask_for_vote, args=(server, args), daemon=True).start()": "self._ask_for_vote(server, args)"
        },
    ),
    "lock-taken-twice": Bug(
        "initial_election",
        "S0: deadlock: the request_vote handler has not answered for",
        {'                log("vote"': '                self.get_state()\n                log("vote"'},
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught(name: str, tmp_path: Path) -> None:
    check(BUGS[name], tmp_path)
