"""Small changes to the reference that leave it correct, according to the paper and the handouts. A test or the referee
once rejected each of these variants by mistake. Now each variant must pass the tests named here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftlab.suites import catalogue
from raftlab.suites.helpers.transfers import leads_within
from tests.conftest import SOLUTION, Write, let_anyone_lead, sim_cluster
from tests.known_bugs import failures_of

pytestmark = pytest.mark.slow

# For each variant: pairs of a text of the reference and the text that replaces it, and the tests that the variant must
# pass.
VARIANTS = {
    "a leader refuses the members that it has": (
        [("            bool(members)\n", "            bool(members) and members != self.members\n")],
        ("removed_leader_crashes", "leader_crashes_in_a_change", "changing_members"),
    ),
    "a candidate asks itself, too": (
        [
            (
                "            args = self._become_candidate()\n            others = self._others()\n",
                "            args = self._become_candidate()\n            others = [self.me, *self._others()]\n",
            ),
            (
                "            if granted:\n                self._vote_for(args.candidate_id)\n",
                "            if granted and self.voted_for is None:\n                self._vote_for(args.candidate_id)\n",
            ),
        ],
        ("restarts", "long_life", "own_vote_survives"),
    ),
    "a question for a pre-vote is repeated until the answer is yes": (
        [
            (
                '        reply = self.peers[server].call("pre_vote", args)\n        if reply is None:\n            return\n',
                '        while not (reply := self.peers[server].call("pre_vote", args)) or not reply.vote_granted:\n'
                "            with self.lock:\n"
                "                if reply is not None:\n"
                "                    self._see_term(reply.term)\n"
                "                if self.asking is not args:\n"
                "                    return\n"
                "            time.sleep(0.06)\n",
            )
        ],
        ("pre_votes_that_count", "lost_and_repeated"),
    ),
    "a higher term is adopted from every answer to a pre-vote, even from a yes": (
        [
            (
                "we would be refused forever.\n                self._see_term(reply.term)\n                return\n",
                "we would be refused forever.\n                self._see_term(reply.term)\n                return\n"
                "            self._see_term(reply.term)\n",
            )
        ],
        ("lease_and_slow_answers", "lease_and_a_refusal", "lease_needs_the_new_members", "lease_needs_the_old_members"),
    ),
    "a new leader repeats the latest configuration instead of a no-op, as in Apache Ratis": (
        [
            (
                "            if NOOP_ON_ELECTION:\n",
                "            self._append_configuration(self.members, self.old_members)\n            if NOOP_ON_ELECTION:\n",
            )
        ],
        (
            "leader_cuts_its_log_at_once",
            "part2_leader_crashes",
            "part2_restart_between_two",
            "part2_two_leaders",
            "changing_members",
            "during_a_joint_change",
            "during_a_change",
            "lease_needs_the_new_members",
            "lease_needs_the_old_members",
        ),
    ),
    "a follower keeps entries that arrive too early, and a later success confirms them": (
        [
            (
                "    conflict_index: int | None = None\n",
                "    conflict_index: int | None = None\n    stored: int | None = None\n",
            ),
            (
                "        self.in_flight: dict[int, tuple[object, float]] = {}\n",
                "        self.in_flight: dict[int, tuple[object, float]] = {}\n        self.early: list[Any] = []\n",
            ),
            (
                "            if refusal is not None:\n                return refusal\n            self._store(args)\n",
                "            self.early = [early for early in self.early[-9:] if early.term == args.term]\n"
                "            if refusal is not None:\n"
                "                self.early.append(args)\n"
                "                return refusal\n"
                "            self._store(args)\n"
                "            upto = args.prev_log_index + len(args.entries)\n"
                "            for early in sorted(self.early, key=lambda early: early.prev_log_index):\n"
                "                last = early.prev_log_index + len(early.entries)\n"
                "                if early.prev_log_index <= upto < last and self._conflict(early) is None:\n"
                "                    self._store(early)\n"
                "                    upto = last\n",
            ),
            (
                "            self._commit(min(args.leader_commit, args.prev_log_index + len(args.entries)))\n",
                "            self._commit(min(args.leader_commit, upto))\n",
            ),
            (
                "            return AppendEntriesReply(term=self.current_term, success=True)\n",
                "            return AppendEntriesReply(term=self.current_term, success=True, stored=upto)\n",
            ),
            (
                "                self._matched(server, args.prev_log_index + len(args.entries))\n",
                "                self._matched(server, max(args.prev_log_index + len(args.entries), reply.stored or 0))\n",
            ),
            # The leader sends the entries in two messages at the same moment, so that one can overtake the other.
            (
                "                    args = self._append_args(server, MAX_BATCH)\n",
                "                    args = self._append_args(server, MAX_BATCH)\n"
                "                    half = len(args.entries) // 2\n"
                "                    if half:\n"
                "                        prev = args.prev_log_index + half\n"
                "                        later = dataclasses.replace(\n"
                "                            args, prev_log_index=prev, prev_log_term=self._term_at(prev),\n"
                "                            entries=args.entries[half:],\n"
                "                        )\n"
                "                        args.entries = args.entries[:half]\n"
                "                        both = server, later\n"
                "                        call = threading.Thread(target=self._send_append, args=both, daemon=True)\n"
                "                        call.start()\n",
            ),
        ],
        ("backup", "lossy_network", "concurrent_starts", "mixed_sizes", "whole_log_first", "target_leads_at_once"),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_correct_variant_passes(variant: str, tmp_path: Path) -> None:
    changes, tests = VARIANTS[variant]
    source = SOLUTION.read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, f"the reference has changed: {old!r} occurs {source.count(old)} times"
        source = source.replace(old, new)
    (tmp_path / "raft.py").write_text(source, encoding="utf-8")
    shutil.copy(SOLUTION.with_name("kv.py"), tmp_path)
    infos = [catalogue.find_test(name) for name in tests]
    assert [(info.name, failure.text) for info, failure in failures_of(tmp_path, infos)] == []


# A service that answers reads of a session and of a snapshot from older states. It keeps the value of a key and the index of
# that value's state, and reads the key anew only if the clerk has seen a later index.
KEEPS_OLDER_STATES = """

class KVServer(KVServer):
    def __init__(self, *args, **kwargs):
        self.kept = {}
        super().__init__(*args, **kwargs)

    def client_request(self, args: ClientRequest) -> ClientReply:
        read_only = args.op == "get" and args.read != "log" and isinstance(args.key, str)
        if read_only and args.read in ("session", "snapshot"):
            kept = self.kept.get(args.key)
            if kept is not None and kept.index >= args.seen:
                return kept
        reply = super().client_request(args)
        if read_only and reply.status == "ok":
            self.kept[args.key] = reply
        return reply
"""


def test_a_service_that_keeps_older_states_passes(tmp_path: Path) -> None:
    shutil.copy(SOLUTION, tmp_path)
    service = SOLUTION.with_name("kv.py").read_text(encoding="utf-8")
    (tmp_path / "kv.py").write_text(service + KEEPS_OLDER_STATES, encoding="utf-8")
    names = ("one_server_reads", "reads_need_no_session", "each_kind", "snapshots_never_go_back")
    infos = [catalogue.find_test(name) for name in names]
    assert [(info.name, failure.text) for info, failure in failures_of(tmp_path, infos)] == []


def test_a_deposed_leader_is_not_taken_for_the_target_of_a_transfer(write_raft: Write) -> None:
    """A target that led an earlier term may still say so for a moment after the new transfer has begun."""
    with sim_cluster(write_raft(init="self.get_state = lambda: (3, True)"), 1, lab="2A") as c:
        let_anyone_lead(c.event_loop.referee)
        c.start_all()
        assert leads_within(c, 0, 0.1, after=2)
        assert not leads_within(c, 0, 0.1, after=3)
