"""A service of lab 3B in which only the leader answers reads by index and by lease, so clerks look for the leader. If the
leader has no lease, a read by lease becomes an entry. There is one lock, and each request waits for an event of its own.
When a server says try_again, the clerk changes to another server only at every third try."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from raftlab.api import ApplyMsg, Peer, Raft, Unknown

ANSWER_WITHIN = 1.0
PAUSE = 0.02
PEEK = "peek"


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


class Ticket:
    """A request that waits. With a term, it waits for the entry of that term at the index. Without a term, it waits
    until the index is applied."""

    def __init__(self, term: int | None = None) -> None:
        self.term = term
        self.reply = ClientReply("try_again")
        self.done = threading.Event()


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
        self.lock = threading.Lock()
        self.last = 0
        self.values: dict[str, str] = {}
        self.sessions: dict[str, list[Any]] = {}  # last serial, its answer, the index of the last use
        self.tickets: dict[int, list[Ticket]] = {}
        threading.Thread(target=self._work, daemon=True).start()

    def client_request(self, args: ClientRequest) -> ClientReply:
        end = time.monotonic() + ANSWER_WITHIN
        if not fine(asdict(args)):
            return ClientReply("bad_request")
        if args.op == "get" and args.read in ("session", "snapshot"):
            return self._read_at(args.seen, args.key, end)
        term, leads = self.raft.get_state()
        if not leads:
            return ClientReply("not_leader")
        if args.op == "get" and args.read == "index":
            index = self.raft.read_index()
            return self._read_at(index, args.key, end) if index >= 0 else ClientReply("try_again")
        command = asdict(args)
        if args.op == "get" and args.read == "lease":
            index = self.raft.lease_index()
            if index >= 0:
                return self._read_at(index, args.key, end)
            command = {"op": PEEK, "key": args.key}
        ticket = Ticket()
        with self.lock:
            index, term, leads = self.raft.start(command)
            if index < 1:
                return ClientReply("try_again" if leads else "not_leader")
            ticket.term = term
            self.tickets.setdefault(index, []).append(ticket)
        ticket.done.wait(max(0.0, end - time.monotonic()))
        return ticket.reply

    def _read_at(self, index: int, key: str, end: float) -> ClientReply:
        ticket = Ticket()
        with self.lock:
            if self.last < index:
                self.tickets.setdefault(index, []).append(ticket)
            else:
                ticket.done.set()
        if not ticket.done.wait(max(0.0, end - time.monotonic())):
            return ClientReply("try_again")
        with self.lock:
            return ClientReply("ok", self.values.get(key), index=self.last)

    def _work(self) -> None:
        while True:
            message = self.applied()
            with self.lock:
                reply = ClientReply("bad_request")
                if message.kind == "snapshot":
                    self.values, self.sessions = json.loads(message.snapshot or b"")
                elif message.kind == "command" and fine(message.command):
                    reply = self._carry_out(message.index, message.command)
                reply.index = self.last = message.index
                for index in [index for index in self.tickets if index <= message.index]:
                    for ticket in self.tickets.pop(index):
                        if ticket.term == message.term and index == message.index:
                            ticket.reply = reply
                        ticket.done.set()
                state = json.dumps([self.values, self.sessions]).encode() if self._is_large(message) else None
            if state is not None:
                self.raft.snapshot(message.index, state)

    def _is_large(self, message: ApplyMsg) -> bool:
        return message.kind != "snapshot" and self.max_state is not None and self.stored() > self.max_state

    def _carry_out(self, index: int, command: dict[str, Any]) -> ClientReply:
        op, key = command["op"], command["key"]
        if op == PEEK:
            return ClientReply("ok", self.values.get(key))
        if op == "register":
            self.sessions[str(index)] = [0, None, index]
            while len(self.sessions) > self.max_sessions:
                del self.sessions[min(self.sessions, key=lambda number: self.sessions[number][2])]
            return ClientReply("ok", index)
        session = self.sessions.get(str(command["client_id"]))
        if session is None:
            return ClientReply("no_session")
        session[2] = index
        if op == "get":
            return ClientReply("ok", self.values.get(key))
        if command["serial"] < session[0]:
            return ClientReply("try_again")
        if command["serial"] > session[0]:
            session[:2] = command["serial"], self._write(op, key, command["value"], command["expected"])
        return ClientReply("ok", session[1])

    def _write(self, op: str, key: str, value: str, expected: str | None) -> bool | None:
        if op == "swap" and self.values.get(key) != expected:
            return False
        self.values[key] = self.values.get(key, "") + value if op == "append" else value
        return True if op == "swap" else None


def fine(command: Any) -> bool:
    """Whether a command can be carried out."""
    if not isinstance(command, dict) or not isinstance(command.get("key"), str):
        return False
    if command.get("op") == PEEK:
        return True
    try:
        request = ClientRequest(**command)
    except TypeError:
        return False
    if any(type(number) is not int for number in (request.client_id, request.serial, request.seen)):
        return False
    if not all(text is None or isinstance(text, str) for text in (request.value, request.expected)):
        return False
    if request.read not in ("log", "index", "lease", "session", "snapshot"):
        return False
    needs_value = request.op in ("put", "append", "swap")
    if not needs_value and request.op not in ("get", "register"):
        return False
    return (request.op == "register" or request.serial >= 1) and (request.value is not None or not needs_value)


class Clerk:
    def __init__(self, servers: list[Peer], client_id: int) -> None:
        self.servers = servers
        self.client_id = client_id
        self.session: Any = None
        self.serial = 0
        self.server = client_id % len(servers)
        self.last_index = 0

    def get(self, key: str, read: str = "log") -> str | None:
        if read == "log":
            return self._in_session("get", key)
        # This asks for more than is needed: not even a snapshot read may show a state older than this clerk has seen.
        return self._until_settled(ClientRequest(0, 1, "get", key, read=read, seen=self.last_index))[0].value

    def put(self, key: str, value: str) -> None:
        self._in_session("put", key, value)

    def append(self, key: str, value: str) -> None:
        self._in_session("append", key, value)

    def swap(self, key: str, expected: str | None, value: str) -> bool:
        return self._in_session("swap", key, value, expected)

    def _in_session(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        while True:
            if self.session is None:
                self.session = self._until_settled(ClientRequest(self.client_id, 0, "register"))[0].value
            self.serial += 1
            request = ClientRequest(self.session, self.serial, op, key, value, expected)
            reply, tries = self._until_settled(request)
            if reply.status == "ok":
                return reply.value
            self.session = None
            if tries > 1 and op != "get":
                raise Unknown(f"{op} {key}")

    def _until_settled(self, request: ClientRequest) -> tuple[ClientReply, int]:
        tries = 0
        while True:
            tries += 1
            reply = self.servers[self.server].call("client_request", request)
            if reply is not None and reply.status == "bad_request":
                raise ValueError(request)
            if reply is not None and reply.status in ("ok", "no_session"):
                self.last_index = max(self.last_index, reply.index)
                return reply, tries
            if reply is None or reply.status == "not_leader" or tries % 3 == 0:
                self.server = (self.server + 1) % len(self.servers)
            time.sleep(PAUSE)
