"""A service whose handlers poll the table of sessions for their answer, every 5 ms. Another thread takes the snapshots. The
table also has the answers of gets, but snapshots leave them out. The clerk pauses after each try that failed. Each session
begins with serial 1."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from raftlab.api import ApplyMsg, Peer, Raft, Unknown

POLL = 0.005
LOOK = 10  # a handler calls get_state at every tenth poll
ANSWER_WITHIN = 1.2
SNAPSHOT_POLL = 0.02
KEPT_TERMS = 2000


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


@dataclass
class Row:
    """One session: its number, its last request and the answer to it, the index of its last entry, and whether the answer is
    lost. Snapshots leave out the answers of gets."""

    session: int
    serial: int
    op: str
    answer: Any
    used: int
    lost: bool = False


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
        self.raft, self.applied, self.stored = raft, applied, stored
        self.max_sessions = max_sessions
        self.lock = threading.RLock()
        self.values: dict[str, str] = {}
        self.table: list[Row] = []
        self.index = 0  # the index of the last entry applied
        self.snapshot_index = 0
        self.terms: dict[int, int] = {}  # the terms of the last entries applied, by index
        threading.Thread(target=self._apply_forever, daemon=True).start()
        if max_state is not None:
            threading.Thread(target=self._snapshot_forever, args=(max_state,), daemon=True).start()

    def client_request(self, args: ClientRequest) -> ClientReply:
        end = time.monotonic() + ANSWER_WITHIN
        try:
            check(asdict(args))
        except (TypeError, ValueError, KeyError):
            return ClientReply("bad_request")
        index, term, leads = self.raft.start(asdict(args))
        if not leads or index < 1:
            return ClientReply("try_again" if leads else "not_leader")
        polls = 0
        while time.monotonic() < end:
            with self.lock:
                reply = self._find(args, index, term)
            if reply is not None:
                return reply
            polls += 1
            if polls % LOOK == 0:
                now, leads = self.raft.get_state()
                if not leads or now != term:
                    return ClientReply("not_leader")
            time.sleep(POLL)
        return ClientReply("try_again")

    def _find(self, args: ClientRequest, index: int, term: int) -> ClientReply | None:
        """The reply to a request whose entry should be at `index` with `term`, or None if that index is not applied yet."""
        if self.index < index:
            return None
        if self.terms.get(index) != term:
            return ClientReply("try_again")  # another entry is there, or a snapshot covers it
        wanted = index if args.op == "register" else args.client_id
        row = next((row for row in self.table if row.session == wanted), None)
        if row is None:
            # A session that was just registered may have ended already. For any other request, a missing row means that the
            # session has ended.
            return ClientReply("try_again" if args.op == "register" else "no_session")
        if args.op == "register":
            return ClientReply("ok", row.session)
        if row.serial != args.serial or row.lost:
            return ClientReply("try_again")
        return ClientReply("ok", row.answer)

    def _apply_forever(self) -> None:
        while True:
            message = self.applied()
            with self.lock:
                if message.kind == "snapshot":
                    self._load(message.snapshot or b"")
                    self.snapshot_index = message.index
                elif message.kind == "command":
                    # A command that is not a valid request changes nothing, on any server.
                    with contextlib.suppress(TypeError, ValueError, KeyError):
                        self._apply(message.index, check(message.command))
                self.terms[message.index] = message.term
                self.terms.pop(message.index - KEPT_TERMS, None)
                self.index = message.index

    def _apply(self, index: int, request: dict[str, Any]) -> None:
        if request["op"] == "register":
            self.table.append(Row(index, 0, "register", None, index))
            if len(self.table) > self.max_sessions:
                self.table.remove(min(self.table, key=lambda row: row.used))
            return
        for row in self.table:
            if row.session == request["client_id"]:
                row.used = index
                again = row.lost and request["serial"] == row.serial and request["op"] == "get"
                if request["serial"] > row.serial or again:
                    row.serial, row.op, row.lost = request["serial"], request["op"], False
                    row.answer = self._carry_out(**{name: request[name] for name in ("op", "key", "value", "expected")})

    def _carry_out(self, op: str, key: str, value: str, expected: str | None) -> Any:
        old = self.values.get(key)
        if op == "get":
            return old
        if op == "swap" and old != expected:
            return False
        self.values[key] = (old or "") + value if op == "append" else value
        return True if op == "swap" else None

    def _snapshot_forever(self, max_state: int) -> None:
        while True:
            time.sleep(SNAPSHOT_POLL)
            if self.stored() <= max_state:
                continue
            with self.lock:
                index, data = self.index, self._dump()
                fresh = index > self.snapshot_index
                self.snapshot_index = index
            if fresh:
                self.raft.snapshot(index, data)

    def _dump(self) -> bytes:
        rows = [
            [row.session, row.serial, row.op, None if row.op == "get" else row.answer, row.used, row.op == "get"]
            for row in self.table
        ]
        return json.dumps([list(self.values.items()), rows]).encode()

    def _load(self, data: bytes) -> None:
        values, rows = json.loads(data)
        self.values = dict(values)
        self.table = [Row(*row) for row in rows]
        self.terms.clear()


def check(command: Any) -> dict[str, Any]:
    """The command. Raises TypeError, ValueError or KeyError if it is not a valid request."""
    if not isinstance(command, dict):
        raise TypeError("not a request")
    for name, kind in (("client_id", int), ("serial", int), ("key", str)):
        if type(command[name]) is not kind:
            raise TypeError(name)
    for name in ("value", "expected"):
        if command[name] is not None and type(command[name]) is not str:
            raise TypeError(name)
    op = command["op"]
    if op not in ("register", "get", "put", "append", "swap") or command["read"] != "log":
        raise ValueError(op)
    if op != "register" and command["serial"] < 1:
        raise ValueError("serial")
    if op in ("put", "append", "swap") and command["value"] is None:
        raise ValueError("value")
    return command


class Clerk:
    def __init__(self, servers: list[Peer], client_id: int) -> None:
        self.servers = servers
        self.client_id = client_id
        self.session = 0
        self.serial = 0
        self.at = client_id % len(servers)

    def get(self, key: str) -> str | None:
        while True:
            reply, _ = self._operation("get", key)
            if reply.status == "ok":
                return reply.value

    def put(self, key: str, value: str) -> None:
        self._change("put", key, value)

    def append(self, key: str, value: str) -> None:
        self._change("append", key, value)

    def swap(self, key: str, expected: str | None, value: str) -> bool:
        return self._change("swap", key, value, expected)

    def _change(self, op: str, key: str, value: str, expected: str | None = None) -> Any:
        while True:
            reply, tries = self._operation(op, key, value, expected)
            if reply.status == "ok":
                return reply.value
            if tries > 1:
                raise Unknown(op)

    def _operation(
        self, op: str, key: str, value: str | None = None, expected: str | None = None
    ) -> tuple[ClientReply, int]:
        if not self.session:
            self.session, self.serial = self._until_settled(ClientRequest(self.client_id, 0, "register"))[0].value, 0
        self.serial += 1
        reply, tries = self._until_settled(ClientRequest(self.session, self.serial, op, key, value, expected))
        if reply.status == "no_session":
            self.session = 0
        return reply, tries

    def _until_settled(self, request: ClientRequest) -> tuple[ClientReply, int]:
        tries = 0
        while True:
            tries += 1
            reply = self.servers[self.at].call("client_request", request)
            status = "lost" if reply is None else reply.status
            if status == "bad_request":
                raise ValueError(request)
            if status in ("ok", "no_session"):
                return reply, tries
            self.at = (self.at + 1) % len(self.servers)
            time.sleep(0.02)
