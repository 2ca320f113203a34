"""A scripted leader that sends snapshots to S0, the one real server, for labs 2D and 2E. It follows Figures 2 and 13."""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.referee.snapshots import CHUNK_BYTES as CHUNK


def term_of(index: int) -> int:
    """The term of an entry in the scripted leader's log: it changes every ten entries. So a snapshot up to 10, 20, ... ends
    with the last entry of a term."""
    return 0 if index == 0 else 5 + (index - 1) // 10 * 5


def _append_args(prev: int, last: int, commit: int, term: int = 0) -> dict[str, object]:
    """The fields of an AppendEntries, see :meth:`SnapshotSender.append`."""
    entries = [
        {"term": term or term_of(index), "command": f"{index} of term {term or term_of(index)}"}
        for index in range(prev + 1, last + 1)
    ]
    return {"prev_log_index": prev, "prev_log_term": term_of(prev), "entries": entries, "leader_commit": commit}


class SnapshotSender:
    """S1 leads S0. If S0 starts an election (its timer may run out on a busy machine), S1 continues in a higher term.

    Commands contain their index and term. S1 has committed everything that its snapshots cover.

    Attributes:
        term: S1's current term, far above any that S0 reaches by itself.
    """

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.term = 1000

    def ask(self, method: str, **args: object) -> Message:
        """Send a request to S0. If S0 is in a higher term, send it again in an even higher one. Returns the reply."""
        for _ in range(10):
            reply = self.c.scripted_server(1).ask(0, method, term=self.term, leader_id=1, **args)
            if reply["term"] <= self.term:
                return reply
            self.term = reply["term"] + 1
        return self.c.fail(
            "expected S0 to follow a leader that sends messages, but it starts an election each time",
            rules.TIMER_RESTARTS,
            [0],
        )

    def send(self, method: str, **args: object) -> Rpc:
        """Send a request to S0 once, without waiting for the reply."""
        return self.c.scripted_server(1).send(0, method, term=self.term, leader_id=1, **args)

    def append(self, prev: int, last: int, commit: int = 0, term: int = 0) -> bool:
        """Send the entries after ``prev`` up to ``last`` in one AppendEntries. Returns whether S0 accepted them.

        Args:
            prev: prev_log_index.
            last: the index of the last entry; no entries if it equals ``prev``.
            commit: leader_commit.
            term: the term of all these entries; 0 for the terms in the leader's own log.
        """
        return bool(self.ask("append_entries", **_append_args(prev, last, commit, term))["success"])

    def send_append(self, prev: int, last: int, commit: int = 0) -> Rpc:
        """Like :meth:`append`, but send the request once, and do not wait for the reply."""
        return self.send("append_entries", **_append_args(prev, last, commit))

    def chunk(self, index: int, number: int) -> dict[str, object]:
        """The fields of the InstallSnapshot with chunk ``number`` (from 0) of the snapshot up to ``index``."""
        data = self.c.snapshot_of(index)
        return {
            "last_included_index": index,
            "last_included_term": term_of(index),
            "offset": number * CHUNK,
            "data": data[number * CHUNK : (number + 1) * CHUNK],
            "done": (number + 1) * CHUNK >= len(data),
        }

    def install(self, index: int) -> None:
        """Send every chunk of the snapshot up to ``index``, in order."""
        for number in range(-(-len(self.c.snapshot_of(index)) // CHUNK)):
            self.ask("install_snapshot", **self.chunk(index, number))

    def commit_through(self, prev: int, last: int, when: str) -> None:
        """Send the entries after ``prev`` up to ``last``, all committed, and require that S0 applies them.

        If S0 refuses because it lacks ``prev``, send it the snapshot up to ``prev`` first. Some Rafts take
        nothing from a message that begins before their commit index. So send shorter and shorter messages if necessary.
        ``when`` is part of the failure's message.
        """
        for _ in range(3):
            if self.append(prev, last, commit=last):
                break
            self.install(prev)
            self.c.sleep(0.05)
        if not self.c.wait_for(0.3, lambda: self.c.committed(last)[0] == 1):
            for later in range(prev + 1, last):
                self.append(later, last, commit=last)
        applied = self.c.wait_for(2.0, lambda: self.c.committed(last)[0] == 1)
        self.c.expect(applied, f"expected S0 to go on to index {last} {when}, but it does not", rules.CATCH_UP, [0])

    def expect_kept(self, index: int, when: str) -> None:
        """Require that S0 still has the entry at ``index``, which it has acknowledged."""
        text = f"expected S0 to keep the acknowledged index {index} {when}, but it has lost it"
        self.c.expect(self.append(index, index), text, rules.KEEP_THE_REST, [0])

    def expect_gone(self, index: int, term: int, when: str) -> None:
        """Require that S0 has no entry of ``term`` at ``index``: it must refuse what follows on from this entry."""
        args = {"prev_log_index": index, "prev_log_term": term, "entries": [], "leader_commit": 0}
        text = f"expected S0 to discard its entry of term {term} at index {index} {when}, but S0 still has it"
        gone = self.c.wait_for(0.5, lambda: not self.ask("append_entries", **args)["success"])
        self.c.expect(gone, text, rules.KEEP_THE_REST, [0])

    def expect_vote_refused(self, last_index: int, last_term: int, when: str) -> None:
        """Have S2 ask for S0's vote with a log that lacks committed entries, and require that S0 refuses."""
        self.term += 1
        log = {"last_log_index": last_index, "last_log_term": last_term}
        reply = self.c.scripted_server(2).ask(0, "request_vote", term=self.term, candidate_id=2, **log)
        text = f"expected S0 to refuse a candidate whose log ends with index {last_index} of term {last_term}, {when}"
        self.c.expect(not reply["vote_granted"], f"{text}, but it voted for it", rules.NEWER_LOG, [0])
        self.term += 1
