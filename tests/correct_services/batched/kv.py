"""A service that batches. A thread collects the requests that arrive within 2 ms and puts them into one entry, as JSON
text. Each handler waits at a queue of its own, which the apply loop finds by a token in the entry. Another thread takes
compressed snapshots of the latest state. Serials have gaps. The clerk ignores hints, and waits longer after each round
of tries."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
import zlib
from dataclasses import asdict, dataclass

from raftlab.api import Unknown


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


class KVServer:
    def __init__(self, raft, applied, stored, me, servers, max_state, max_sessions):
        self.raft, self.applied, self.stored, self.me = raft, applied, stored, me
        self.max_state, self.max_sessions = max_state, max_sessions
        self.lock = threading.Lock()
        self.tree = {"data": {}, "sessions": {}, "clock": 0, "index": 0}
        self.waiting = {}  # token -> queue
        self.pending = []  # (token, dict)
        self.nonce = random.randrange(1 << 60)
        self.count = 0
        self.arrived = threading.Condition(self.lock)
        self.moved = threading.Condition(self.lock)
        threading.Thread(target=self._propose_loop, daemon=True).start()
        threading.Thread(target=self._apply_loop, daemon=True).start()
        threading.Thread(target=self._snapshot_loop, daemon=True).start()

    def client_request(self, args: ClientRequest) -> ClientReply:
        if not valid(asdict(args)):
            return ClientReply("bad_request")
        if args.op == "get" and args.read != "log":
            return self._read(args)
        if not self.raft.get_state()[1]:
            return ClientReply("not_leader")
        answer = queue.Queue()
        with self.lock:
            self.count += 1
            token = [self.me, self.nonce, self.count]
            self.waiting[tuple(token)] = answer
            self.pending.append((token, asdict(args)))
            self.arrived.notify()
        try:
            return answer.get(timeout=1.2)
        except queue.Empty:
            return ClientReply("try_again")
        finally:
            with self.lock:
                self.waiting.pop(tuple(token), None)

    def _propose_loop(self):
        while True:
            with self.lock:
                while not self.pending:
                    self.arrived.wait()
            time.sleep(0.002)
            with self.lock:
                batch, rest, registers = [], [], 0
                for token, request in self.pending:
                    if request["op"] == "register":
                        registers += 1
                        if registers > 1:
                            rest.append((token, request))
                            continue
                    batch.append([token, request])
                self.pending = rest
            index, _, leads = self.raft.start(json.dumps(batch))
            if not leads or index < 0:
                with self.lock:
                    for token, _ in batch:
                        if tuple(token) in self.waiting:
                            self.waiting[tuple(token)].put(ClientReply("not_leader" if not leads else "try_again"))

    def _apply_loop(self):
        while True:
            message = self.applied()
            with self.lock:
                if message.kind == "snapshot":
                    self.tree = json.loads(zlib.decompress(message.snapshot))
                else:
                    if message.kind == "command":
                        self._apply(message.index, message.command)
                    self.tree["index"] = message.index
                self.moved.notify_all()

    def _apply(self, index, command):
        try:
            batch = json.loads(command)
            pairs = [(tuple(token), request) for token, request in batch]
        except (TypeError, ValueError):
            return
        for token, request in pairs:
            if not isinstance(request, dict) or not valid(request):
                continue
            reply = self._one(index, request)
            reply.index = index
            if token in self.waiting:
                self.waiting[token].put(reply)

    def _one(self, index, r):
        tree = self.tree
        tree["clock"] += 1
        sessions = tree["sessions"]
        if r["op"] == "register":
            sessions[str(index)] = [0, None, tree["clock"]]
            while len(sessions) > self.max_sessions:
                del sessions[min(sessions, key=lambda k: sessions[k][2])]
            return ClientReply("ok", index)
        s = sessions.get(str(r["client_id"]))
        if s is None:
            return ClientReply("no_session")
        s[2] = tree["clock"]
        if r["op"] == "get":
            return ClientReply("ok", tree["data"].get(r["key"]))
        if r["serial"] < s[0]:
            return ClientReply("try_again")
        if r["serial"] > s[0]:
            s[0], s[1] = r["serial"], None
            data, key, value = tree["data"], r["key"], r["value"]
            if r["op"] == "put":
                data[key] = value
            elif r["op"] == "append":
                data[key] = data.get(key, "") + value
            else:
                s[1] = data.get(key) == r["expected"]
                if s[1]:
                    data[key] = value
        return ClientReply("ok", s[1])

    def _snapshot_loop(self):
        while self.max_state is not None:
            with self.lock:
                self.moved.wait(0.02)
                index = self.tree["index"]
                data = zlib.compress(json.dumps(self.tree).encode(), 1) if self.stored() > self.max_state else None
            if data is not None and index:
                self.raft.snapshot(index, data)

    def _read(self, args):
        end = time.monotonic() + 1.6
        if args.read in ("index", "lease"):
            floor = self.raft.read_index() if args.read == "index" else self.raft.lease_index()
            if floor < 0:
                return ClientReply("not_leader")
        else:
            floor = args.seen
        with self.lock:
            if not self.moved.wait_for(lambda: self.tree["index"] >= floor, timeout=max(0.0, end - time.monotonic())):
                return ClientReply("try_again")
            return ClientReply("ok", self.tree["data"].get(args.key), index=self.tree["index"])


class Clerk:
    def __init__(self, servers, client_id):
        self.servers, self.client_id = servers, client_id
        self.random = random.Random(client_id)
        self.session, self.serial, self.at = None, 0, self.random.randrange(len(servers))
        self.seen = self.seen_snapshot = 0

    def get(self, key, read="log"):
        if read == "log":
            return self._do("get", key)
        seen = self.seen if read == "session" else self.seen_snapshot if read == "snapshot" else 0
        reply, _ = self._ask(ClientRequest(self.client_id, 1, "get", key, read=read, seen=seen))
        self.seen = max(self.seen, reply.index)
        if read == "snapshot":
            self.seen_snapshot = reply.index
        return reply.value

    def put(self, key, value):
        self._do("put", key, value)

    def append(self, key, value):
        self._do("append", key, value)

    def swap(self, key, expected, value):
        return self._do("swap", key, value, expected)

    def _do(self, op, key, value=None, expected=None):
        while True:
            while self.session is None:
                reply, _ = self._ask(ClientRequest(self.client_id, 0, "register"))
                self.session = reply.value
                self.serial = 0
            self.serial += self.random.randint(1, 5)
            reply, tries = self._ask(ClientRequest(self.session, self.serial, op, key, value, expected))
            if reply.status == "ok":
                self.seen = max(self.seen, reply.index)
                return reply.value
            self.session = None
            if tries > 1 and op != "get":
                raise Unknown("the session is over")

    def _ask(self, request):
        tries, backoff = 0, 0.03
        while True:
            for _ in self.servers:
                tries += 1
                reply = self.servers[self.at].call("client_request", request)
                if reply is not None and reply.status in ("ok", "no_session"):
                    return reply, tries
                if reply is not None and reply.status == "bad_request":
                    raise ValueError(request)
                self.at = (self.at + 1) % len(self.servers)
            time.sleep(backoff * self.random.uniform(0.5, 1.5))
            backoff = min(0.3, backoff * 2)


def valid(r):
    def text(x):
        return isinstance(x, str)

    try:
        return (
            all(type(r[k]) is int for k in ("client_id", "serial", "seen"))
            and text(r["key"])
            and all(r[k] is None or text(r[k]) for k in ("value", "expected"))
            and r["op"] in ("register", "get", "put", "append", "swap")
            and r["read"] in ("log", "index", "lease", "session", "snapshot")
            and (r["op"] == "register" or r["serial"] >= 1)
            and (r["op"] in ("register", "get") or r["value"] is not None)
        )
    except (KeyError, TypeError):
        return False
