"""A service whose handlers wait by session and serial. So the entry of one copy of a request answers all copies,
whichever leader appended that entry. Any server answers two kinds of requests immediately: retries of a request that
was carried out, and requests of a session that has ended. A command names the server that began it, and clerks get the
name of that server as a hint. The clerk follows hints, and tries the other servers in random order."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from store import Store

from raftlab.api import ApplyMsg, Peer, Raft, Unknown

ANSWER_WITHIN = 1.0
LOOK_EVERY = 0.06


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


class Waiting:
    """A handler that waits for its reply."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.reply = ClientReply("try_again")

    def answer(self, reply: ClientReply) -> None:
        self.reply = reply
        self.ready.set()


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
        self.me = me
        self.max_state = max_state
        self.lock = threading.Lock()
        self.store = Store(max_sessions)
        self.waiting: defaultdict[Hashable, list[Waiting]] = defaultdict(list)
        self.leader: int | None = None
        threading.Thread(target=self._apply_all, args=(applied, stored), daemon=True).start()

    def client_request(self, args: ClientRequest) -> ClientReply:
        request = [args.client_id, args.serial, args.op, args.key, args.value, args.expected]
        if not valid(request) or args.read != "log":
            return ClientReply("bad_request")
        # A registration gets a number of its own, because two registrations of one clerk begin two sessions.
        ticket = random.getrandbits(50) if args.op == "register" else 0
        key = (args.client_id, args.serial, args.op, ticket)
        mine = Waiting()
        with self.lock:
            known = self._known(args)
            if known is not None:
                return known
            # This comes before start(), so that the entry cannot be applied before the handler waits for it.
            self.waiting[key].append(mine)
        try:
            return self._begin(mine, {"by": self.me, "ticket": ticket, "request": request})
        finally:
            with self.lock:
                self.waiting[key].remove(mine)
                if not self.waiting[key]:
                    del self.waiting[key]

    def _known(self, args: ClientRequest) -> ClientReply | None:
        """The reply to a request that needs no entry, or ``None`` if it needs one."""
        if args.op == "register":
            return None
        if self.store.is_over(args.client_id):
            return ClientReply("no_session")
        if args.op != "get" and self.store.answered(args.client_id, args.serial):
            return ClientReply("ok", self.store.sessions[args.client_id][1])
        return None

    def _begin(self, mine: Waiting, command: dict[str, Any]) -> ClientReply:
        end = time.monotonic() + ANSWER_WITHIN
        index, term, leads = self.raft.start(command)
        while leads and index > 0 and time.monotonic() < end:
            if mine.ready.wait(LOOK_EVERY):
                return mine.reply
            current, leads = self.raft.get_state()
            leads = leads and current == term
        if leads:
            return ClientReply("try_again")
        with self.lock:
            return ClientReply("not_leader", leader=self.leader)

    def _apply_all(self, applied: Callable[[], ApplyMsg], stored: Callable[[], int]) -> None:
        while True:
            message = applied()
            data = None
            with self.lock:
                if message.kind == "snapshot":
                    self.store.load(message.index, message.snapshot or b"")
                    continue
                self.store.index = message.index
                if message.kind == "command":
                    self._apply(message.command)
                if self.max_state is not None and stored() > self.max_state:
                    data = self.store.dump()
            if data is not None:
                self.raft.snapshot(message.index, data)

    def _apply(self, command: Any) -> None:
        match command:
            case {"by": int(by), "ticket": int(ticket), "request": [*request]} if valid(request):
                pass
            case _:
                return
        self.leader = by
        session, serial, op, *_ = request
        if op == "register":
            reply = ClientReply("ok", self.store.register())
        elif session not in self.store.sessions:
            reply = ClientReply("no_session")
        elif op != "get" and serial < self.store.sessions[session][0]:
            reply = ClientReply("try_again")
        else:
            reply = ClientReply("ok", self.store.carry_out(*request))
        for each in self.waiting.get((session, serial, op, ticket), ()):
            each.answer(reply)


def valid(request: list[Any]) -> bool:
    """Whether these are a valid client_id, serial, op, key, value and expected value."""
    if len(request) != 6:
        return False
    session, serial, op, key, value, expected = request
    needs_value = op in ("put", "append", "swap")
    return (
        type(session) is type(serial) is int
        and type(key) is str
        and (type(value) is str or (value is None and not needs_value))
        and (type(expected) is str or expected is None)
        and (op == "register" or ((needs_value or op == "get") and serial > 0))
    )


class Clerk:
    def __init__(self, servers: list[Peer], client_id: int) -> None:
        self.servers = servers
        self.client_id = client_id
        self.session: int | None = None
        self.serial = 0
        self.first = 0

    def get(self, key: str) -> str | None:
        return self._operation("get", key)

    def put(self, key: str, value: str) -> None:
        self._operation("put", key, value)

    def append(self, key: str, value: str) -> None:
        self._operation("append", key, value)

    def swap(self, key: str, expected: str | None, value: str) -> bool:
        return self._operation("swap", key, value, expected)

    def _operation(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        while True:
            if self.session is None:
                (self.session, _), self.serial = self._ask(ClientRequest(self.client_id, 0, "register")), 0
            self.serial += 1
            try:
                return self._ask(ClientRequest(self.session, self.serial, op, key, value, expected))[0]
            except NoSession as exc:
                self.session = None
                if exc.tries > 1 and op != "get":
                    raise Unknown(f"{op} {key}") from None

    def _ask(self, request: ClientRequest) -> tuple[Any, int]:
        """The answer, and the number of tries. Raises NoSession if the session has ended."""
        tries = 0
        while True:
            order = random.sample(range(len(self.servers)), len(self.servers))
            order.remove(self.first)
            order.insert(0, self.first)
            while order:
                server = order.pop(0)
                tries += 1
                reply = self.servers[server].call("client_request", request)
                if reply is None:
                    continue
                if reply.status == "ok":
                    self.first = server
                    return reply.value, tries
                if reply.status == "no_session":
                    raise NoSession(tries)
                if reply.status == "bad_request":
                    raise ValueError(f"{request} is refused")
                if reply.leader in order:
                    order.remove(reply.leader)
                    order.insert(0, reply.leader)
            time.sleep(random.uniform(0.02, 0.08))


class NoSession(Exception):
    """The session has ended. ``tries`` says how often the request was sent."""

    def __init__(self, tries: int) -> None:
        super().__init__()
        self.tries = tries
