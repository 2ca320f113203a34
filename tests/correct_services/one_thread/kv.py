"""A service in which one thread owns the state and calls Raft, so there are no locks. Handlers, and the thread that takes
entries from Raft, put work into the queue of that one thread. Handlers wait for futures. The clerk first asks the server
that answered last, and then all servers at once, each in a thread."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from raftlab.api import ApplyMsg, Peer, Raft, Unknown

ANSWER_WITHIN = 1.3
LOOK_EVERY = 0.05
ALONE = 0.3  # seconds that the clerk gives one server before it asks all
ROUND = 2.5  # seconds until the clerk asks all again
PAUSE = 0.05


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


Waiting = Future[ClientReply]


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
        self.inbox: queue.Queue[ApplyMsg | tuple[ClientRequest, Waiting]] = queue.Queue()
        threading.Thread(target=self._forward, daemon=True).start()
        threading.Thread(target=self._work, daemon=True).start()

    def client_request(self, args: ClientRequest) -> ClientReply:
        waiting: Waiting = Future()
        self.inbox.put((args, waiting))
        try:
            return waiting.result(ANSWER_WITHIN)
        except TimeoutError:
            return ClientReply("try_again")

    def _forward(self) -> None:
        while True:
            self.inbox.put(self.applied())

    # All methods below run in one thread, and no other thread uses their objects.

    def _work(self) -> None:
        store = Store(self.max_sessions)
        waiting: dict[
            int, tuple[int, Waiting]
        ] = {}  # by the entry's index: the entry's term, and the future of its handler
        look_at = 0.0
        while True:
            try:
                job = self.inbox.get(timeout=LOOK_EVERY if waiting else None)
            except queue.Empty:
                job = None
            if isinstance(job, ApplyMsg):
                self._apply(job, store, waiting)
            elif job is not None:
                self._begin(*job, waiting)
            if waiting and time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_EVERY
                term, leads = self.raft.get_state()
                give_up(waiting, "not_leader", lambda _, begun, term=term, leads=leads: not leads or begun != term)

    def _begin(self, request: ClientRequest, future: Waiting, waiting: dict[int, tuple[int, Waiting]]) -> None:
        command = dict(vars(request))
        if parse(command) is None:
            future.set_result(ClientReply("bad_request"))
            return
        index, term, leads = self.raft.start(command)
        if not leads:
            future.set_result(ClientReply("not_leader"))
        elif index < 0:
            future.set_result(ClientReply("try_again"))
        else:
            give_up(waiting, "not_leader", lambda at, _: at == index)
            waiting[index] = term, future

    def _apply(self, message: ApplyMsg, store: Store, waiting: dict[int, tuple[int, Waiting]]) -> None:
        if message.kind == "snapshot":
            store.load(message.snapshot or b"")
            give_up(waiting, "try_again", lambda index, _: index <= message.index)
            return
        # Requests that were begun in an earlier term and have not been applied yet are lost, because this entry came first.
        give_up(waiting, "not_leader", lambda _, term: term < message.term)
        if message.kind == "command":
            reply = store.carry_out(message.index, parse(message.command))
            term, future = waiting.get(message.index, (None, None))
            if future is not None and term == message.term:
                del waiting[message.index]
                future.set_result(reply)
        give_up(waiting, "not_leader", lambda index, _: index <= message.index)
        if self.max_state is not None and self.stored() > self.max_state:
            self.raft.snapshot(message.index, store.dump())


def give_up(waiting: dict[int, tuple[int, Waiting]], status: str, which: Callable[..., bool]) -> None:
    """Answer each request in ``waiting`` for which ``which(index, term)`` is true."""
    for index, (term, future) in list(waiting.items()):
        if which(index, term):
            del waiting[index]
            future.set_result(ClientReply(status))


def parse(command: Any) -> dict[str, Any] | None:
    """The command, or ``None`` if it is not a valid request."""
    if isinstance(command, dict) and any(isinstance(value, bool) for value in command.values()):
        return None
    match command:
        case {"op": "register", "read": "log", "client_id": int(), "serial": int()}:
            return command
        case {
            "op": "get" | "put" | "append" | "swap",
            "read": "log",
            "client_id": int(),
            "serial": int(serial),
            "key": str(),
            "value": str() | None,
            "expected": str() | None,
        } if serial >= 1 and (command["op"] == "get" or command["value"] is not None):
            return command
        case _:
            return None


class Store:
    """The keys and values, and for each session its last serial, the answer, and the index of that request's entry."""

    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.values: dict[str, str] = {}
        self.sessions: dict[int, tuple[int, Any, int]] = {}

    def carry_out(self, index: int, request: dict[str, Any] | None) -> ClientReply:
        if request is None:
            return ClientReply("bad_request")
        if request["op"] == "register":
            self.sessions[index] = 0, None, index
            if len(self.sessions) > self.max_sessions:
                del self.sessions[min(self.sessions, key=lambda session: self.sessions[session][2])]
            return ClientReply("ok", index)
        session, serial = request["client_id"], request["serial"]
        if session not in self.sessions:
            return ClientReply("no_session")
        last, answer, _ = self.sessions[session]
        if request["op"] == "get":
            self.sessions[session] = last, answer, index
            return ClientReply("ok", self.values.get(request["key"]))
        if serial < last:
            return ClientReply("try_again")
        if serial > last:
            answer = self._write(request["op"], request["key"], request["value"], request["expected"])
        self.sessions[session] = serial, answer, index
        return ClientReply("ok", answer)

    def _write(self, op: str, key: str, value: str, expected: str | None) -> bool | None:
        if op == "append":
            self.values[key] = self.values.get(key, "") + value
        elif op == "put" or self.values.get(key) == expected:
            self.values[key] = value
        else:
            return False
        return True if op == "swap" else None

    def dump(self) -> bytes:
        sessions = [[session, *rest] for session, rest in sorted(self.sessions.items())]
        return json.dumps({"values": self.values, "sessions": sessions}).encode()

    def load(self, data: bytes) -> None:
        state = json.loads(data)
        self.values = state["values"]
        self.sessions = {session: (serial, answer, index) for session, serial, answer, index in state["sessions"]}


class Clerk:
    def __init__(self, servers: list[Peer], client_id: int) -> None:
        self.servers = servers
        self.client_id = client_id
        self.session: int | None = None
        self.serial = 0
        self.leader = 0

    def get(self, key: str) -> str | None:
        return self._run("get", key)

    def put(self, key: str, value: str) -> None:
        self._run("put", key, value)

    def append(self, key: str, value: str) -> None:
        self._run("append", key, value)

    def swap(self, key: str, expected: str | None, value: str) -> bool:
        return self._run("swap", key, value, expected)

    def _run(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        while True:
            if self.session is None:
                self.session = self._ask(ClientRequest(self.client_id, 0, "register"))[0].value
            self.serial += 10  # gaps are allowed
            reply, sent = self._ask(ClientRequest(self.session, self.serial, op, key, value, expected))
            if reply.status == "ok":
                return reply.value
            self.session = None
            if sent > 1 and op != "get":
                raise Unknown(f"{op} of {key}: no session any more")

    def _ask(self, request: ClientRequest) -> tuple[ClientReply, int]:
        """The first reply that settles the request, and how many requests were sent until then."""
        replies: queue.Queue[tuple[int, ClientReply | None]] = queue.Queue()
        sent = 0
        asked, patience = [self.leader], ALONE
        while True:
            for server in asked:
                threading.Thread(target=self._call, args=(server, request, replies), daemon=True).start()
            sent += len(asked)
            decision = self._first_decision(replies, len(asked), patience)
            if decision is not None:
                return decision, sent
            if patience == ROUND:
                time.sleep(PAUSE)
            asked, patience = list(range(len(self.servers))), ROUND

    def _call(self, server: int, request: ClientRequest, replies: queue.Queue[tuple[int, ClientReply | None]]) -> None:
        replies.put((server, self.servers[server].call("client_request", request)))

    def _first_decision(
        self, replies: queue.Queue[tuple[int, ClientReply | None]], asked: int, patience: float
    ) -> ClientReply | None:
        """The first reply that settles the request. Returns ``None`` if ``asked`` replies have arrived and none of them
        settles it, or after ``patience`` seconds."""
        end = time.monotonic() + patience
        for _ in range(asked):
            try:
                server, reply = replies.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if reply is not None and reply.status == "bad_request":
                raise ValueError("the servers refuse this request")
            if reply is not None and reply.status in ("ok", "no_session"):
                self.leader = server
                return reply
        return None
