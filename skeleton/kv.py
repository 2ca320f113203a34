"""A key/value service on Raft, written by you.

You write both ends of it: the server, which carries out what the log says, and the clerk, with which a client calls the
servers. The sources are section 8 of the paper, and sections 6.1 to 6.3 of Ongaro's dissertation.

Read `handouts/lab-3a.md` first. Where the skeleton says "Your code here", code is missing. You may add fields, methods,
threads and files. Keep what is here, and give every field that you add to a message a default value.

The Raft below is your `raft.py` or another one, so this file does not import it. What the lab gives you (see `raftlab.api`):

- `raft` is this server's Raft. Call its `start`, `get_state` and `snapshot`; in lab 3B also `read_index` and `lease_index`.
- `applied()` waits for the next ApplyMsg and returns it. Every index comes once, in order. After a restart the newest
  snapshot comes first, if there is one.
- `stored()` is the number of bytes that Raft has saved, without the snapshot.
- `servers[i].call("client_request", args)` calls a handler of server i. It returns the reply, or None if the network lost
  the request or the reply. This may take seconds.
- `Unknown` is an exception for your clerk to raise; its docstring says when.
"""

# Not every import is used yet: your code will need them.
# ruff: noqa: F401

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from raftlab.api import ApplyMsg, Peer, Raft, Unknown

OPS = ("register", "get", "put", "append", "swap")
READS = ("log", "index", "lease", "session", "snapshot")

# Your code here (3A): constants of your own

# Your code here (3B): constants of your own


@dataclass
class ClientRequest:
    """What a clerk asks of a server. The server passes it on to Raft as a dict.

    The op "register" begins a session. In all other requests, `client_id` is the session, and the serial grows with each
    operation, from 1; a retry has the serial of the first try. "put", "append" and "swap" need a `value`. "swap" sets the
    key to `value` if the key has the value `expected` (None: if there is no such key). `read` and `seen` are for lab 3B.
    """

    client_id: int
    serial: int
    op: str
    key: str = ""
    value: str | None = None
    expected: str | None = None
    read: str = "log"
    seen: int = 0


@dataclass
class ClientReply:
    """A server's answer. What each `status` promises about the request:

    - "ok": the request was carried out, exactly once. `value` is the answer from that one time.
    - "not_leader": nothing. The request may have been carried out already, or may be carried out later. `leader` may say who
      leads, and may be wrong.
    - "try_again": nothing either, but the clerk may ask this server again.
    - "no_session": the request will not be carried out in this session any more. An earlier copy may have been carried out.
    - "bad_request": the request makes no sense, and was never carried out.

    `index` is for lab 3B.
    """

    status: str
    value: str | int | bool | None = None
    leader: int | None = None
    index: int = 0


# Your code here (3A): what a server remembers about a session


class KVServer:
    """One server of the service. It is a state machine (§2): only entries of the log change it, so all servers that have
    applied the same entries are equal.

    One lock guards the fields of the state. It is never held while this server waits or calls Raft.
    """

    def __init__(
        self,
        raft: Raft,
        applied: Callable[[], ApplyMsg],
        stored: Callable[[], int],
        me: int,
        servers: list[Peer],
        max_state: int | None,
        max_sessions: int,
    ) -> None:
        """
        Args:
            raft, applied, stored: see the top of this file.
            me: this server's number.
            servers: all servers, in case you want to call them (lab 3B).
            max_state: take a snapshot when Raft has saved more bytes than this; None: never.
            max_sessions: the most sessions to remember.
        """
        self.raft = raft
        self.applied = applied
        self.stored = stored
        self.me = me
        self.servers = servers
        self.max_state = max_state
        self.max_sessions = max_sessions

        # Your code here (3A): the state, what requests wait for, and the thread that applies entries
        # The table of sessions is part of the state: all servers must agree on which exist (dissertation, 6.3).

    # --- RPC handler: called by clerks, several at a time ---

    def client_request(self, args: ClientRequest) -> ClientReply:
        """Carry out a clerk's request, or say why not. Answers within 2 s, whatever happens."""
        # Your code here (3A): put the request into the log, and answer once it has been applied (§8)
        # Do not carry out the request here. Every server carries it out when it applies the entry. Then answer.
        # The entry may never be applied: this server may have lost its leadership without noticing it.
        # Another entry may be applied at its index: compare ApplyMsg.term with the term that start() returned.
        return ClientReply("not_leader")

    # Your code here (3A): waiting for an entry, applying entries, sessions and snapshots
    # One thread takes what applied() returns, and never stops. It ignores what it cannot understand.
    # Carry out a session's put, append or swap only if its serial is higher than that of the last one.
    # A get needs an entry in the log, too: a leader cannot know that it still leads (§8).

    # Your code here (3B): reads
    # Each kind of read says how far this server must have applied the log. Wait until it has, then read.


class Clerk:
    """A client's side of the service. It carries out one operation at a time, and retries until it has an answer."""

    def __init__(self, servers: list[Peer], client_id: int) -> None:
        """Returns at once, so call no server in here.

        Args:
            servers: all servers.
            client_id: a number that no other clerk has, for "register".
        """
        self.servers = servers
        self.client_id = client_id

        # Your code here (3A): what a clerk remembers between operations

        # Your code here (3B): what this clerk has seen, and the server for reads that any server can answer

    def get(self, key: str, read: str = "log") -> str | None:
        """The value of `key`; None if there is no such key. In lab 3B, `read` is "log", "index", "lease", "session" or
        "snapshot"."""
        # Your code here (3B): reads that need no session, because they change nothing
        value: str | None = self._execute("get", key)
        return value

    def put(self, key: str, value: str) -> None:
        """Set `key` to `value`."""
        self._execute("put", key, value)

    def append(self, key: str, value: str) -> None:
        """Add `value` to the end of the value of `key`; a key that does not exist counts as ""."""
        self._execute("append", key, value)

    def swap(self, key: str, expected: str | None, value: str) -> bool:
        """Set `key` to `value` if its value is `expected` (None: if there is no such key). Returns whether it was set."""
        return bool(self._execute("swap", key, value, expected))

    def _execute(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        """Carry out one operation, exactly once, and return its answer.

        Raises:
            Unknown: the request was retried, and the session ended meanwhile, so it may have been carried out, or not.
            ValueError: the service refuses the request.
        """
        # Your code here (3A): ask with the same serial until there is an answer; if there is no session, register first
        # If the answer to a first try or to a get is "no_session", register and try again. Otherwise raise Unknown.
        return None

    # Your code here (3A): finding the leader, and registering
    # Ask another server when one refuses, or does not answer. What a reply says about the leader may be wrong.
    # When all have refused, wait a little: there may be an election.

    # Your code here (3B): reads
    # Any server may answer reads of kind "session" and "snapshot": do not look for the leader.


# Your code here (3A): which requests are valid
# isinstance(True, int) is true. An entry of the log may contain anything.
