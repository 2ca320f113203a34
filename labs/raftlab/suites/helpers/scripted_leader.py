"""A leader played by the test, for lab 2D: it speaks to S0, the one real server, as Figures 2 and 13 say."""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.referee.snapshots import CHUNK_BYTES as CHUNK


def term_of(index: int) -> int:
    """The terms of the log that S0's leader has: a new one every ten entries."""
    return 0 if index == 0 else 5 + (index - 1) // 10 * 5


class Leader:
    """S1 leads S0. Should S0's timer run out meanwhile (it may, on a busy machine), S1 wins another election. Commands
    tell index and term, and S1 has committed whatever its snapshots cover."""

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.term = 1000

    def ask(self, method: str, **args: object) -> Message:
        for _ in range(10):
            reply = self.c.scripted_server(1).ask(0, method, term=self.term, leader_id=1, **args)
            if reply["term"] <= self.term:
                return reply
            self.term = reply["term"] + 1
        return self.c.fail(
            "expected S0 to follow a leader that speaks to it, but it starts elections", rules.TIMER_RESTARTS, [0]
        )

    def send(self, method: str, **args: object) -> Rpc:
        """The same without waiting for the answer, and only once."""
        return self.c.scripted_server(1).send(0, method, term=self.term, leader_id=1, **args)

    def append(self, prev: int, last: int, commit: int = 0, term: int = 0) -> bool:
        """The entries behind ``prev`` up to ``last`` (of another ``term`` than the leader's own); whether S0 took them."""
        entries = [
            {"term": term or term_of(index), "command": f"{index} of term {term or term_of(index)}"}
            for index in range(prev + 1, last + 1)
        ]
        args = {"prev_log_index": prev, "prev_log_term": term_of(prev), "entries": entries, "leader_commit": commit}
        return bool(self.ask("append_entries", **args)["success"])

    def chunk(self, index: int, number: int) -> dict[str, object]:
        data = self.c.snapshot_of(index)
        return {
            "last_included_index": index,
            "last_included_term": term_of(index),
            "offset": number * CHUNK,
            "data": data[number * CHUNK : (number + 1) * CHUNK],
            "done": (number + 1) * CHUNK >= len(data),
        }

    def install(self, index: int) -> None:
        """Every chunk of the snapshot up to ``index``, in order."""
        for number in range(-(-len(self.c.snapshot_of(index)) // CHUNK)):
            self.ask("install_snapshot", **self.chunk(index, number))

    def bring(self, prev: int, last: int, said: str) -> None:
        """Entries up to ``last``, all committed now. S0 has ``prev``, or else gets the snapshot up to there again."""
        for _ in range(3):
            if self.append(prev, last, commit=last):
                break
            self.install(prev)
            self.c.sleep(0.05)
        self.c.wait_for(2.0, lambda: self.c.committed(last)[0] == 1)
        got = self.c.committed(last)[0]
        self.c.expect(got == 1, f"expected S0 to go on to index {last} {said}, but it does not", rules.CATCH_UP, [0])

    def keeps(self, index: int, said: str) -> None:
        """S0 has acknowledged the entry at ``index``, so it must have it."""
        text = f"expected S0 to keep index {index}, which it had acknowledged, {said}, but it has lost it"
        self.c.expect(self.append(index, index), text, rules.KEEP_THE_REST, [0])

    def rival(self, last_index: int, last_term: int, said: str) -> None:
        """S2 asks for a vote with a log that lacks committed entries, so it must not get one."""
        self.term += 1
        log = {"last_log_index": last_index, "last_log_term": last_term}
        reply = self.c.scripted_server(2).ask(0, "request_vote", term=self.term, candidate_id=2, **log)
        text = f"expected S0 to refuse a candidate whose log ends with index {last_index} of term {last_term}, {said}"
        self.c.expect(not reply["vote_granted"], f"{text}, but it voted for it", rules.NEWER_LOG, [0])
        self.term += 1
