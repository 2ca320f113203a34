"""A service of lab 3B in which any server answers reads. A thread takes all reads that wait and serves them with one call of
read_index; reads by lease join them if there is no lease. The state is a value that each entry replaces as a whole, so reads
need no lock. The clerk asks the nearest server, and can tell by the index in a reply whether a snapshot read is too
old."""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raftlab.api import ApplyMsg, Peer, Raft, Unknown

ANSWER_WITHIN = 1.4
LOOK_EVERY = 0.04
PAUSE = 0.03
KEPT_REPLIES = 500


@dataclass
class ClientRequest:
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
    status: str
    value: str | int | bool | None = None
    leader: int | None = None
    index: int = 0


@dataclass(frozen=True)
class State:
    """The state after the entry at ``index``. ``sessions`` has, for each session, its last serial and the answer to that
    request. The session that was used longest ago comes first."""

    index: int = 0
    values: dict[str, str] = field(default_factory=dict)
    sessions: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def after(self, index: int, command: Any, most: int) -> tuple[State, ClientReply]:
        request = valid(command)
        if request is None:
            return replace(self, index=index), ClientReply("bad_request", index=index)
        session, serial = request.client_id, request.serial
        if request.op == "register":
            sessions = {**self.sessions, index: (0, None)}
            kept = dict(list(sessions.items())[-most:])
            return replace(self, index=index, sessions=kept), ClientReply("ok", index, index=index)
        if session not in self.sessions:
            return replace(self, index=index), ClientReply("no_session", index=index)
        last, answer = self.sessions[session]
        values = self.values
        old = values.get(request.key)
        if request.op == "get":
            reply = ClientReply("ok", old, index=index)
        elif serial < last:
            reply = ClientReply("try_again", index=index)
        else:
            if serial > last:
                last, answer, values = serial, *self._written(request, old)
            reply = ClientReply("ok", answer, index=index)
        sessions = {number: row for number, row in self.sessions.items() if number != session}
        sessions[session] = last, answer
        return State(index, values, sessions), reply

    def _written(self, request: ClientRequest, old: str | None) -> tuple[bool | None, dict[str, str]]:
        new = request.value or ""
        if request.op == "swap":
            fits = old == request.expected
            return fits, {**self.values, request.key: new} if fits else self.values
        return None, {**self.values, request.key: (old or "") + new if request.op == "append" else new}


class KVServer:
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
        self.raft = raft
        self.applied = applied
        self.stored = stored
        self.max_state = max_state
        self.max_sessions = max_sessions
        self.state = State()
        self.replies: dict[int, tuple[int, ClientReply]] = {}
        self.changed = threading.Condition()
        self.reads: queue.Queue[Future[int]] = queue.Queue()
        threading.Thread(target=self._apply, daemon=True).start()
        threading.Thread(target=self._find_indexes, daemon=True).start()

    def client_request(self, args: ClientRequest) -> ClientReply:
        end = time.monotonic() + ANSWER_WITHIN
        if valid(asdict(args)) is None:
            return ClientReply("bad_request")
        if args.op == "get" and args.read != "log":
            return self._read(args, end)
        index, term, leads = self.raft.start(asdict(args))
        if index < 0:
            return ClientReply("try_again" if leads else "not_leader")
        while not self._reaches(index, min(end, time.monotonic() + LOOK_EVERY)):
            if time.monotonic() >= end:
                return ClientReply("try_again")
            if self.raft.get_state() != (term, True):
                return ClientReply("not_leader")
        applied_term, reply = self.replies.get(index, (-1, None))
        return reply if reply is not None and applied_term == term else ClientReply("try_again")

    def _reaches(self, index: int, end: float) -> bool:
        """Wait until this server has applied ``index``, but at most until ``end``. Returns whether it has."""
        with self.changed:
            return self.changed.wait_for(lambda: self.state.index >= index, max(0.0, end - time.monotonic()))

    # --- reads ---

    def _read(self, args: ClientRequest, end: float) -> ClientReply:
        index = args.seen
        if args.read in ("index", "lease"):
            index = self.raft.lease_index() if args.read == "lease" else -1
            if index < 0:
                waiting: Future[int] = Future()
                self.reads.put(waiting)
                try:
                    index = waiting.result(max(0.0, end - time.monotonic()))
                except TimeoutError:
                    index = -1
        if index < 0 or not self._reaches(index, end):
            return ClientReply("try_again")
        state = self.state
        return ClientReply("ok", state.values.get(args.key), index=state.index)

    def _find_indexes(self) -> None:
        while True:
            waiting = [self.reads.get()]
            while not self.reads.empty():
                waiting.append(self.reads.get())
            index = self.raft.read_index()
            for each in waiting:
                each.set_result(index)

    # --- entries ---

    def _apply(self) -> None:
        while True:
            message = self.applied()
            state, reply = replace(self.state, index=message.index), None
            if message.kind == "snapshot":
                state = pickle.loads(message.snapshot or b"")
            elif message.kind == "command":
                state, reply = self.state.after(message.index, message.command, self.max_sessions)
            with self.changed:
                self.state = state
                if reply is not None:
                    self.replies[message.index] = message.term, reply
                self.replies.pop(message.index - KEPT_REPLIES, None)
                self.changed.notify_all()
            if message.kind != "snapshot" and self.max_state is not None and self.stored() > self.max_state:
                self.raft.snapshot(message.index, pickle.dumps(state))


def valid(command: Any) -> ClientRequest | None:
    """The request in a command, or ``None`` if the command is not a valid request."""
    try:
        request = ClientRequest(**command)
    except TypeError:
        return None
    numbers = (request.client_id, request.serial, request.seen)
    texts = (request.value or "", request.expected or "", request.key)
    if any(type(number) is not int for number in numbers) or not all(isinstance(text, str) for text in texts):
        return None
    if request.read not in ("log", "index", "lease", "session", "snapshot"):
        return None
    if request.op == "register":
        return request
    writes = request.op in ("put", "append", "swap") and request.value is not None
    return request if request.serial >= 1 and (writes or request.op == "get") else None


class Clerk:
    def __init__(self, servers: list[Peer], client_id: int) -> None:
        self.servers = servers
        self.client_id = client_id
        self.session = 0
        self.serial = 0
        self.leader = 0
        self.nearest = client_id % len(servers)
        self.seen = 0  # the highest index of any reply
        self.oldest = 0  # the index of the last snapshot read

    def get(self, key: str, read: str = "log") -> str | None:
        if read == "log":
            return self._run("get", key)
        while True:
            # Only the leader has a lease.
            server = self.leader if read == "lease" else self.nearest
            request = ClientRequest(1, 1, "get", key, read=read, seen=self.seen if read == "session" else 0)
            reply = self._call(server, request)
            if reply is not None and reply.status == "ok" and not (read == "snapshot" and reply.index < self.oldest):
                if read == "snapshot":
                    self.oldest = reply.index
                return reply.value
            self.nearest = (self.nearest + 1) % len(self.servers)
            self.leader = (self.leader + 1) % len(self.servers)
            time.sleep(PAUSE)

    def put(self, key: str, value: str) -> None:
        self._run("put", key, value)

    def append(self, key: str, value: str) -> None:
        self._run("append", key, value)

    def swap(self, key: str, expected: str | None, value: str) -> bool:
        return self._run("swap", key, value, expected)

    def _run(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        while True:
            if not self.session:
                self.session, self.serial = self._decided(ClientRequest(self.client_id, 0, "register"))[0].value, 0
            self.serial += 1
            reply, tries = self._decided(ClientRequest(self.session, self.serial, op, key, value, expected))
            if reply.status == "ok":
                return reply.value
            self.session = 0
            if tries > 1 and op != "get":
                raise Unknown(op)

    def _decided(self, request: ClientRequest) -> tuple[ClientReply, int]:
        tries = 0
        while True:
            tries += 1
            reply = self._call(self.leader, request)
            if reply is not None and reply.status in ("ok", "no_session"):
                return reply, tries
            self.leader = (self.leader + 1) % len(self.servers)
            if tries % len(self.servers) == 0:
                time.sleep(PAUSE)

    def _call(self, server: int, request: ClientRequest) -> ClientReply | None:
        reply = self.servers[server].call("client_request", request)
        if reply is not None and reply.status == "bad_request":
            raise ValueError(request)
        if reply is not None:
            self.seen = max(self.seen, reply.index)
        return reply
