# ruff: noqa: E501  (changes of the reference, told as they stand there)
"""Proof in small that lab 2F's suite catches what it claims: each known bug, put into the reference, fails a test."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests import bugs
from tests.bugs import check

Bug = partial(bugs.Bug, before="")

_ASKS = "        self._restart_election_timer()\n        self.leader_id = None\n        self.pre_votes = {self.me}\n"
_HEARS = "                not self._hears_leader()\n                and (\n"
_UP_TO_DATE = "                and self._is_up_to_date(args.last_log_term, args.last_log_index)\n            )\n            return RequestVoteReply(term=self.current_term, vote_granted=granted)\n        # skeleton"
_ROUND = "            if self.asking is not args or self.current_term + 1 != args.term:\n"
_RESTARTED = "        return self.role == LEADER or time.monotonic() < self.heard_leader_at + ELECTION_TIMEOUT[0]\n"
_GRANTED = "            granted = (\n                not self._hears_leader()\n"
_ANSWER = "            return RequestVoteReply(term=self.current_term, vote_granted=granted)\n        # skeleton: return RequestVoteReply(term=self.current_term, vote_granted=False)\n        # endregion\n\n    # region 2A: the election"

BUGS = {
    "pv-none": Bug(
        "partitioned_server_returns",
        "expected S2 to stay in term 0 until most members would vote for it, but it is in term 1, for which",
        {"PRE_VOTE = True": "PRE_VOTE = False"},
    ),
    "pv-bumps-term": Bug(
        "cut_off_server_stays_in_its_term",
        "expected S",
        {
            _ASKS: _ASKS + "        self.current_term += 1\n        self._vote_for(None)\n",
            "            term=self.current_term + 1,\n            candidate_id": "            term=self.current_term,\n            candidate_id",
            "self.current_term + 1 != args.term": "self.current_term != args.term",
        },
    ),
    "pv-reply-counts-as-vote": Bug(
        "pre_votes_of_the_past",
        "expected S0 not to lead, as only S1 has voted for it; pre-votes are no votes, but it leads",
        {
            _ROUND: "            if self.role == CANDIDATE and self.current_term == args.term:\n                self.votes.add(server)\n                self._lead_if_elected()\n"
            + _ROUND
        },
    ),
    "pv-reject-term-ignored": Bug(
        "no_with_a_higher_term",
        "expected S0 to call pre_vote within 5 s for a term above 5000, but it did not",
        {"for ever.\n                self._see_term(reply.term)\n": "for ever.\n"},
    ),
    "pv-keeps-leader": Bug(
        "two_of_three_elect",
        "expected a leader within 5 s, but there is none",
        {
            _ASKS: "        self._restart_election_timer()\n        self.pre_votes = {self.me}\n",
            _RESTARTED: "        return self.role == LEADER or self.leader_id is not None\n",
        },
    ),
    "pv-no-log-check": Bug(
        "who_gets_a_pre_vote",
        "expected no from S0 (in term 1000, log: 900 900) to a pre-vote with a shorter log, term 1001, but",
        {_UP_TO_DATE: _UP_TO_DATE.partition("\n")[2]},
    ),
    "pv-no-term-check": Bug(
        "who_gets_a_pre_vote",
        "expected no from S0 (in term 1000, log: 900 900) to a pre-vote with the same log, for an older",
        {"                    args.term > self.current_term\n": "                    True\n"},
    ),
    "pv-no-lease-check": Bug(
        "who_gets_a_pre_vote",
        "expected S0 to say no to a pre-vote for term 1001 while it hears the leader of term 1000, but it",
        {_HEARS: "                True\n                and (\n"},
    ),
    "pv-no-lease-check (one link)": Bug(
        "one_link_is_cut", "expected S", {_HEARS: "                True\n                and (\n"}
    ),
    "pv-no-lease-check (votes as well)": Bug(
        "one_link_is_cut",
        "expected S",
        {
            _HEARS: "                True\n                and (\n",
            "            if args.term > self.current_term and self._hears_leader():\n": "            if False:\n",
        },
    ),
    "pv-rejects-own-leader": Bug(
        "old_leader_is_needed",
        "expected 'by the two, 0' to be applied by 2 servers within 20 s, but it was not",
        {
            _GRANTED: "            granted = (\n                not self._hears_leader()\n                and args.candidate_id != self.leader_id\n",
            _ASKS: "        self._restart_election_timer()\n        self.pre_votes = {self.me}\n",
        },
    ),
    "pv-no-check-quorum": Bug(
        "deaf_leader",
        "expected S1, which hears nobody, to lead no more within 5 s, but it still says that it does",
        {"CHECK_QUORUM = True": "CHECK_QUORUM = False"},
    ),
    "pv-no-check-quorum (minority)": Bug(
        "leader_of_a_minority",
        "expected S0, which only S1 answers, to lead no more within 5 s, but it still says that it does",
        {"CHECK_QUORUM = True": "CHECK_QUORUM = False"},
    ),
    "pv-check-quorum-of-any": Bug(
        "leader_of_a_minority",
        "expected S0, which only S1 answers, to lead no more within 5 s, but it still says that it does",
        {
            "        return self._is_majority({self.me} | {server for server, when in self.answered_at.items() if when >= since})\n": "        return any(when >= since for server, when in self.answered_at.items() if server != self.me)\n"
        },
    ),
    "pv-check-quorum-of-ever": Bug(
        "deaf_leader",
        "expected S1, which hears nobody, to lead no more within 5 s, but it still says that it does",
        {"        since = time.monotonic() - ELECTION_TIMEOUT[1]\n": "        since = 0.0\n"},
    ),
    "pv-adopts-term": Bug(
        "who_gets_a_pre_vote",
        "expected yes from S0 (in term 1000, log: 900 900) to a pre-vote with the same log, term 1001, but",
        {
            "        with self.lock:\n" + _GRANTED: "        with self.lock:\n            self._see_term(args.term)\n"
            + _GRANTED
        },
    ),
    "pv-adopts-term (in a cluster)": Bug(
        "partitioned_server_returns",
        "expected S",
        {
            "        with self.lock:\n" + _GRANTED: "        with self.lock:\n            self._see_term(args.term)\n"
            + _GRANTED
        },
    ),
    "pv-sets-vote": Bug(
        "a_pre_vote_is_no_vote",
        "expected S0 to say yes to S3, too, as a pre-vote for term 1010 binds nobody, but it said no",
        {
            _ANSWER: "            if granted:\n                self._see_term(args.term)\n                self._vote_for(args.candidate_id)\n"
            + _ANSWER
        },
    ),
    "pv-binds-the-voter": Bug(
        "a_pre_vote_is_no_vote",
        "expected S0 to say yes to S3, too, as a pre-vote for term 1010 binds nobody, but it said no",
        {
            _GRANTED: "            granted = (\n                getattr(self, 'promised', (0, 0)) in ((0, 0), (args.term, args.candidate_id))\n                and not self._hears_leader()\n",
            _ANSWER: "            if granted:\n                self.promised = (args.term, args.candidate_id)\n"
            + _ANSWER,
        },
    ),
    "pv-resets-timer": Bug(
        "a_pre_vote_is_no_vote",
        "expected S0 to call pre_vote within 5 s though others ask it all the time, but it did not",
        {_ANSWER: "            if granted:\n                self._restart_election_timer()\n" + _ANSWER},
    ),
    "pv-old-answers-count": Bug(
        "pre_votes_of_the_past",
        "expected S0 to stay in term 2000, as the yeses it has are for term 1001, but it is in term 2003",
        {_ROUND: "            if self.role == LEADER:\n"},
    ),
    "pv-counts-yes-of-one": Bug(
        "asking_changes_nothing",
        "expected S0 to stay in term 1000 as only one of four others would vote for it, but it is in term 100",
        {"            if not self._is_majority(self.pre_votes):\n                return\n": ""},
    ),
    "pv-counts-a-no": Bug(
        "asking_changes_nothing",
        "expected S0 to stay in term 1000 as only one of four others would vote for it, but it is in term",
        {"            if not reply.vote_granted:\n": "            if reply.term > self.current_term:\n"},
    ),
    "pv-asks-for-next-term": Bug(
        "asking_changes_nothing",
        "expected S0 to ask for term 1001 each time, but it asked for [1001, 1002, 1003, 1004, 1005, 1006,",
        {
            _ASKS: _ASKS + "        self.rounds = getattr(self, 'rounds', 0) + 1\n",
            "            term=self.current_term + 1,\n            candidate_id": "            term=self.current_term + self.rounds,\n            candidate_id",
            _ROUND: "            if self.asking is not args:\n",
        },
    ),
    "pv-asks-once": Bug(
        "asking_changes_nothing",
        "expected S0 to lead within 5 s once all say yes, but it does not",
        {
            "                if PRE_VOTE and not self._is_majority({self.me}):\n": "                if self.asking is not None:\n                    self._restart_election_timer()\n                    continue\n                if PRE_VOTE and not self._is_majority({self.me}):\n"
        },
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_bug_is_caught(name: str, tmp_path: Path) -> None:
    check(BUGS[name], tmp_path)
