"""The last index that each server may know to be committed. This is not a rule, but a record that other rules use.

If an AppendEntries begins before a follower's commit index, the follower may agree only up to its commit index, and
leave the entries after that for a later message. The follower's reply still says success. So such a success proves
nothing about the entries that the follower left. The referee does not know a server's commit index, but it knows an
upper bound of it.
"""

from __future__ import annotations

from collections import Counter

from raftlab.api import ApplyMsg
from raftlab.referee.base import Invariant, Message


class CommitBound(Invariant):
    """The record of the last index that each server may know to be committed.

    Attributes:
        bound: The highest index that each server may know to be committed. Restarts do not lower it, because a server
            may save its commit index.
    """

    def __init__(self) -> None:
        self.bound: Counter[int] = Counter()

    def is_certain(self, server: int, args: Message) -> bool:
        """Whether a success from ``server`` means that the server has every entry of this AppendEntries."""
        return bool(args["prev_log_index"] >= self.bound[server])

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "append_entries":
            self._raise(src, args["leader_commit"])

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        if method == "append_entries":
            self._raise(server, min(args["leader_commit"], args["prev_log_index"] + len(args["entries"])))
        elif method == "install_snapshot":
            self._raise(server, args["last_included_index"])

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            # The reply lets the leader commit at most up to the last entry of the message.
            self._raise(caller, args["prev_log_index"] + len(args["entries"]))

    def applied(self, server: int, msg: ApplyMsg) -> None:
        self._raise(server, msg.index)

    def _raise(self, server: int, index: int) -> None:
        if index > self.bound[server]:
            self.bound[server] = index
