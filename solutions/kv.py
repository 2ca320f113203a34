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

# region 3A: constants of your own
# Seconds. A request must be answered within 2 s. This limit is shorter, to leave time on a busy machine.
ANSWER_WITHIN = 1.0
# Seconds. A request that waits for its entry checks this often whether this server still leads.
LOOK_EVERY = 0.05
# A server keeps the replies to this many entries, the last ones, for the requests that wait for them.
KEPT_REPLIES = 1000
# Seconds. A clerk waits this long after all servers have refused: there may be an election, which takes half a second.
PAUSE = 0.1
# endregion

# region 3B: constants of your own
# The kinds of reads that this clerk sends to the leader. It sends the others to the nearest server. In part 2, that server
# may answer reads by lease, too: then leave "lease" out.
AT_THE_LEADER = ("index", "lease")
# endregion


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


# region 3A: what a server remembers about a session
@dataclass
class Session:
    """The last request of a session that changed something, and the answer to it. A retry must get the same answer."""

    serial: int = 0
    answer: bool | None = None


# endregion


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

        # region 3A: the state, what requests wait for, and the thread that applies entries
        # hint: The table of sessions is part of the state: all servers must agree on which exist (dissertation, 6.3).
        self.lock = threading.Lock()
        self.data: dict[str, str] = {}
        # The sessions, by the index of the entry that registered each. The one that was used last is at the end.
        self.sessions: OrderedDict[int, Session] = OrderedDict()
        self.last_applied = 0
        # The replies to the last entries: index -> (term of the entry, reply). Not part of the state.
        self.replies: dict[int, tuple[int, ClientReply]] = {}
        # Notified when something has been applied.
        self.changed = threading.Condition(self.lock)
        threading.Thread(target=self._apply_loop, daemon=True).start()
        # endregion

    # --- RPC handler: called by clerks, several at a time ---

    def client_request(self, args: ClientRequest) -> ClientReply:
        """Carry out a clerk's request, or say why not. Answers within 2 s, whatever happens."""
        # region 3A: put the request into the log, and answer once it has been applied (§8)
        # hint: Do not carry out the request here. Every server carries it out when it applies the entry. Then answer.
        # hint: The entry may never be applied: this server may have lost its leadership without noticing it.
        # hint: Another entry may be applied at its index: compare ApplyMsg.term with the term that start() returned.
        deadline = time.monotonic() + ANSWER_WITHIN
        if not _is_valid(args):
            # A bad request must not get into the log, where every server would meet it.
            return ClientReply("bad_request")
        # region 3B: the other reads need no entry
        if args.op == "get" and args.read != "log":
            return self._read(args, deadline)
        # endregion
        index, term, is_leader = self.raft.start(asdict(args))
        if not is_leader:
            return ClientReply("not_leader")
        if index < 0:
            return ClientReply("try_again")  # the leader takes no commands while it hands the leadership over (lab 2G)
        return self._wait_for_reply(index, term, deadline)
        # skeleton: return ClientReply("not_leader")
        # endregion

    # region 3A: waiting for an entry, applying entries, sessions and snapshots
    # hint: One thread takes what applied() returns, and never stops. It ignores what it cannot understand.
    # hint: Carry out a session's put, append or swap only if its serial is higher than that of the last one.
    # hint: A get needs an entry in the log, too: a leader cannot know that it still leads (§8).
    # --- waiting ---

    def _wait_for_reply(self, index: int, term: int, deadline: float) -> ClientReply:
        """Wait until the entry at `index` is applied here. Give up when this server no longer leads `term`, because the
        entry may then be lost. Also give up at the deadline, because a leader that is cut off still thinks that it leads."""
        while time.monotonic() < deadline:
            with self.lock:
                if self.changed.wait_for(lambda: self.last_applied >= index, timeout=LOOK_EVERY):
                    return self._reply_to(index, term)
            if self.raft.get_state() != (term, True):
                return ClientReply("not_leader")
        return ClientReply("try_again")

    def _reply_to(self, index: int, term: int) -> ClientReply:
        """The reply to the entry that was given to Raft in `term`. Called with the lock held."""
        applied_term, reply = self.replies.get(index, (None, None))
        if reply is None or applied_term != term:
            # Index and term together name one entry. Another leader's entry, or a snapshot, has come in its place.
            return ClientReply("not_leader")
        return reply

    # --- applying ---

    def _apply_loop(self) -> None:
        """Apply what Raft has committed, in order. Only this thread changes the state."""
        while True:
            message = self.applied()
            with self.lock:
                self._apply(message)
                self.changed.notify_all()
            if message.kind != "snapshot":
                self._snapshot_if_large(message.index)

    def _apply(self, message: ApplyMsg) -> None:
        """Entries of the kinds "noop" and "configuration" only move `last_applied`. Called with the lock held."""
        if message.kind == "snapshot":
            self._restore(message.snapshot or b"")
        elif message.kind == "command":
            reply = self._apply_command(message.index, message.command)
            # region 3B: a clerk that has seen this reply must not see an older state afterwards
            reply.index = message.index
            # endregion
            self.replies[message.index] = message.term, reply
        self.replies.pop(message.index - KEPT_REPLIES, None)
        self.last_applied = message.index

    def _apply_command(self, index: int, command: Any) -> ClientReply:
        """Carry out an entry, unless it was carried out before. Called with the lock held."""
        request = _request_in(command)
        if request is None:
            # This is not a command of this service. All servers get it, and none may fail on it.
            return ClientReply("bad_request")
        if request.op == "register":
            return self._register(index)
        session = self.sessions.get(request.client_id)
        if session is None:
            return ClientReply("no_session")
        self.sessions.move_to_end(request.client_id)
        if request.op == "get":
            # A get changes nothing, so a retry can simply read again. Its answer, which may be large, need not be kept.
            return ClientReply("ok", self.data.get(request.key))
        if request.serial > session.serial:
            session.serial, session.answer = request.serial, self._change(request)
        elif request.serial < session.serial:
            # An old copy that arrived late. The clerk has sent a later request since, so nobody waits for this answer.
            return ClientReply("try_again")
        return ClientReply("ok", session.answer)

    def _change(self, request: ClientRequest) -> bool | None:
        """Carry out a put, append or swap. Called with the lock held."""
        key, value = request.key, request.value or ""
        if request.op == "swap":
            if self.data.get(key) != request.expected:
                return False
            self.data[key] = value
            return True
        self.data[key] = self.data.get(key, "") + value if request.op == "append" else value
        return None

    def _register(self, index: int) -> ClientReply:
        """Begin a session (dissertation, 6.3). Its number is the index of its entry, which no other session ever has. Called
        with the lock held."""
        self.sessions[index] = Session()
        if len(self.sessions) > self.max_sessions:
            # End the one that was used least recently. The log decides which one it is, not a clock: all servers must agree.
            self.sessions.popitem(last=False)
        return ClientReply("ok", index)

    # --- snapshots (§7) ---

    def _snapshot_if_large(self, index: int) -> None:
        """Give Raft the state as of `index`, if its log has become too long."""
        if self.max_state is not None and self.stored() > self.max_state:
            with self.lock:
                data = self._encode()
            self.raft.snapshot(index, data)

    def _encode(self) -> bytes:
        """The state as bytes. The sessions keep their order, which decides which ends next. Called with the lock held."""
        sessions = [(number, session.serial, session.answer) for number, session in self.sessions.items()]
        return json.dumps([self.data, sessions], sort_keys=True).encode()

    def _restore(self, snapshot: bytes) -> None:
        """Replace the state by the state in a snapshot. Called with the lock held."""
        self.data, sessions = json.loads(snapshot)
        self.sessions = OrderedDict((number, Session(serial, answer)) for number, serial, answer in sessions)
        self.replies.clear()

    # endregion

    # region 3B: reads
    # hint: Each kind of read says how far this server must have applied the log. Wait until it has, then read.
    # --- reads without an entry (dissertation, 6.4) ---

    def _read(self, request: ClientRequest, deadline: float) -> ClientReply:
        """Answer a get of another kind than "log"."""
        index = request.seen
        if request.read == "index":
            index = self.raft.read_index()
        elif request.read == "lease":
            index = self.raft.lease_index()
        if index < 0:
            return ClientReply("not_leader")
        with self.lock:
            left = max(0.0, deadline - time.monotonic())
            if not self.changed.wait_for(lambda: self.last_applied >= index, timeout=left):
                return ClientReply("try_again")
            return ClientReply("ok", self.data.get(request.key), index=self.last_applied)

    # endregion


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

        # region 3A: what a clerk remembers between operations
        self.session: int | None = None
        self.serial = 0
        self.leader = 0  # the server to ask first: the one that answered last
        # endregion

        # region 3B: what this clerk has seen, and the server for reads that any server can answer
        # The highest index of any reply, and the index of the last reply to a read of kind "snapshot".
        self.seen = 0
        self.seen_snapshot = 0
        self.nearest = client_id % len(servers)
        # endregion

    def get(self, key: str, read: str = "log") -> str | None:
        """The value of `key`; None if there is no such key. In lab 3B, `read` is "log", "index", "lease", "session" or
        "snapshot"."""
        # region 3B: reads that need no session, because they change nothing
        if read != "log":
            return self._read(key, read)
        # endregion
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
        # region 3A: ask with the same serial until there is an answer; if there is no session, register first
        # hint: If the answer to a first try or to a get is "no_session", register and try again. Otherwise raise Unknown.
        while True:
            if self.session is None:
                self._register()
                continue
            self.serial += 1
            request = ClientRequest(self.session, self.serial, op, key, value, expected)
            reply, tries = self._send(request)
            if reply.status == "ok":
                # region 3B: later reads must not see an older state
                self.seen = max(self.seen, reply.index)
                # endregion
                return reply.value
            # The servers have forgotten the session.
            self.session = None
            if tries > 1 and op != "get":
                raise Unknown(f"{op} of {key!r} may have been carried out, or not: the session has ended")
        # skeleton: return None
        # endregion

    # region 3A: finding the leader, and registering
    # hint: Ask another server when one refuses, or does not answer. What a reply says about the leader may be wrong.
    # hint: When all have refused, wait a little: there may be an election.
    def _register(self) -> None:
        """Ask for a session. If a reply is lost, there will be two sessions. The one that nobody uses does no harm."""
        reply, _ = self._send(ClientRequest(self.client_id, 0, "register"))
        if reply.status == "ok" and isinstance(reply.value, int):
            self.session = reply.value

    def _send(self, request: ClientRequest) -> tuple[ClientReply, int]:
        """Ask the servers in turn until one answers "ok" or "no_session". Returns this answer and the number of tries.

        A round asks each server once, whatever the hints say. Otherwise hints that lead in a circle would never end."""
        tries = 0
        while True:
            untried = set(range(len(self.servers)))
            while untried:
                untried.discard(self.leader)
                reply = self.servers[self.leader].call("client_request", request)
                tries += 1
                if reply is not None and reply.status in ("ok", "no_session"):
                    return reply, tries
                if reply is not None and reply.status == "bad_request":
                    raise ValueError(f"the service refuses {request}")
                hint = reply.leader if reply is not None else None
                self.leader = hint if hint in untried else self._after(self.leader, untried)
            time.sleep(PAUSE)

    def _after(self, server: int, untried: set[int]) -> int:
        """The next server that was not tried in this round; if all were tried, the next one of all servers."""
        following = [(server + step) % len(self.servers) for step in range(1, len(self.servers) + 1)]
        return next((each for each in following if each in untried), following[0])

    # endregion

    # region 3B: reads
    # hint: Any server may answer reads of kind "session" and "snapshot": do not look for the leader.
    def _read(self, key: str, read: str) -> str | None:
        """Ask for a value without an entry in the log."""
        seen = {"session": self.seen, "snapshot": self.seen_snapshot}.get(read, 0)
        request = ClientRequest(self.client_id, max(1, self.serial), "get", key, read=read, seen=seen)
        reply = self._send(request)[0] if read in AT_THE_LEADER else self._send_to_any(request)
        self.seen = max(self.seen, reply.index)
        if read == "snapshot":
            self.seen_snapshot = reply.index
        assert reply.value is None or isinstance(reply.value, str)
        return reply.value

    def _send_to_any(self, request: ClientRequest) -> ClientReply:
        """Ask the nearest server, then the others one after another, until one can answer."""
        while True:
            for _ in self.servers:
                reply = self.servers[self.nearest].call("client_request", request)
                if reply is not None and reply.status == "ok":
                    return reply
                if reply is not None and reply.status == "bad_request":
                    raise ValueError(f"the service refuses {request}")
                self.nearest = (self.nearest + 1) % len(self.servers)
            time.sleep(PAUSE)

    # endregion


# region 3A: which requests are valid
# hint: isinstance(True, int) is true. An entry of the log may contain anything.
def _is_valid(request: ClientRequest) -> bool:
    """Whether the request can be carried out. Other programs than this clerk may send anything."""
    return (
        all(type(number) is int for number in (request.client_id, request.serial, request.seen))
        and isinstance(request.key, str)
        and all(text is None or isinstance(text, str) for text in (request.value, request.expected))
        and request.op in OPS
        and request.read in READS
        and (request.op == "register" or request.serial >= 1)
        and (request.op in ("register", "get") or request.value is not None)
    )


def _request_in(command: Any) -> ClientRequest | None:
    """The request that `client_request` made into this command; None if it is something else."""
    try:
        request = ClientRequest(**command)
    except TypeError:
        return None
    return request if _is_valid(request) else None


# endregion
