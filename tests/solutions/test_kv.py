"""Tests of the reference's key/value service and of the other correct services, without a network. The services run on a
fake Raft that commits at once, and the clerks call servers that the test plays."""

from __future__ import annotations

import importlib.util
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from raftlab.api import ApplyMsg, Unknown
from tests.conftest import ROOT, SOLUTION

SERVICES = {"reference": SOLUTION.with_name("kv.py")} | {
    path.parent.name: path for path in sorted((ROOT / "tests" / "correct_services").glob("*/kv.py"))
}
# The limit of each wait, in seconds. No wait takes nearly as long, even on a busy machine, so reaching the limit means
# that something is wrong.
LONG = 10.0
# Commands that no service puts into its log: values of other types, other fields, requests that make no sense.
NOT_REQUESTS: list[Any] = [
    None,
    17,
    "put",
    [],
    ["put", "x"],
    {},
    {"op": "put"},
    {"client_id": 1, "serial": 1, "op": "put", "key": "x", "value": "1", "surprise": 1},
    {"client_id": "1", "serial": 1, "op": "put", "key": "x", "value": "1", "expected": None, "read": "log", "seen": 0},
    {"client_id": 1, "serial": 1, "op": "put", "key": ["x"], "value": "1", "expected": None, "read": "log", "seen": 0},
    {"client_id": 1, "serial": 1, "op": ["put"], "key": "x", "value": "1", "expected": None, "read": "log", "seen": 0},
    {"client_id": 1, "serial": 1, "op": "put", "key": "x", "value": None, "expected": None, "read": "log", "seen": 0},
    {"client_id": 1, "serial": True, "op": "put", "key": "x", "value": "1", "expected": None, "read": "log", "seen": 0},
    {"by": 0, "ticket": 0, "request": [1, 1, "put"]},
    {"by": 0, "ticket": 0, "request": None},
]


class FakeRaft:
    """The Raft below one service. Unless a test changes these fields, this server leads and commits each command at once.

    Attributes:
        messages: what ``applied()`` returns next.
        term, leads: the term, and whether this server leads, as ``get_state`` and ``start`` report them.
        commits: whether ``start`` commits commands.
        begun: the commands given to ``start``.
        snapshots: the snapshots that the service has taken, each with its index.
        size: what ``stored()`` returns, in bytes. It becomes 0 when a snapshot covers the whole log.
        over: whether the test is over. From then on ``stored()`` blocks, so that no thread of the service goes on polling.
    """

    def __init__(self) -> None:
        self.messages: queue.Queue[ApplyMsg] = queue.Queue()
        self.term, self.leads, self.commits = 1, True, True
        self.index = 0
        self.begun: list[Any] = []
        self.snapshots: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self.size = 0
        self.over = False
        self.lock = threading.Lock()

    def get_state(self) -> tuple[int, bool]:
        return self.term, self.leads

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self.lock:
            if not self.leads:
                return -1, self.term, False
            self.begun.append(command)
            if self.commits:
                return self.commit(command), self.term, True
            return self.index + len(self.begun), self.term, True

    def commit(self, command: Any = None, kind: Any = "command") -> int:
        self.index += 1
        self.messages.put(ApplyMsg(self.index, self.term, command, kind))
        return self.index

    def snapshot(self, index: int, data: bytes) -> None:
        with self.lock:
            if index == self.index:
                self.size = 0
        self.snapshots.put((index, data))

    def stored(self) -> int:
        if self.over:
            threading.Event().wait()
        return self.size


class Services:
    """Starts servers of one service, each on a ``FakeRaft`` of its own."""

    def __init__(self, kv: ModuleType) -> None:
        self.kv = kv
        self.rafts: list[FakeRaft] = []

    def start(self, max_state: int | None = None, max_sessions: int = 100, snapshot: Any = None) -> Server:
        raft = FakeRaft()
        self.rafts.append(raft)
        if snapshot is not None:
            raft.index, data = snapshot
            raft.messages.put(ApplyMsg(raft.index, 1, kind="snapshot", snapshot=data))
        service = self.kv.KVServer(raft, raft.messages.get, raft.stored, 0, [], max_state, max_sessions)
        return Server(self.kv, raft, service)


class Server:
    def __init__(self, kv: ModuleType, raft: FakeRaft, service: Any) -> None:
        self.kv, self.raft, self.service = kv, raft, service

    def ask(self, op: str, session: int, serial: int, key: str = "", *args: Any, **fields: Any) -> Any:
        """The reply to a request. ``args`` are the value or, for a swap, the expected value and the new value."""
        names = ("expected", "value") if op == "swap" else ("value",)
        request = self.kv.ClientRequest(session, serial, op, key, **dict(zip(names, args, strict=False)), **fields)
        return self.service.client_request(request)

    def register(self) -> int:
        reply = self.ask("register", 7, 0)
        assert reply.status == "ok"
        assert reply.value == self.raft.index
        session: int = reply.value
        return session

    def said(self, op: str, session: int, serial: int, key: str = "", *args: Any) -> Any:
        """The value in the reply to a request. The reply must be "ok". Like a clerk, this method repeats a request that
        is answered with "try_again": a service gives up after about a second, which may pass on a busy machine."""
        deadline = time.monotonic() + LONG
        while (reply := self.ask(op, session, serial, key, *args)).status == "try_again":
            assert time.monotonic() < deadline, reply
        assert reply.status == "ok", reply
        return reply.value

    def snapshot(self) -> tuple[int, bytes]:
        """Make the service take a snapshot, by letting Raft report 1,001 saved bytes. Returns its index and its bytes."""
        with self.raft.lock:
            self.raft.size = 1001
            index = self.raft.commit(kind="noop")
        while True:
            taken = self.raft.snapshots.get(timeout=LONG)
            if taken[0] == index:
                return taken

    def read(self, key: str) -> str | None:
        """The value of a key, read in a new session."""
        value: str | None = self.said("get", self.register(), 1, key)
        return value


@pytest.fixture(params=SERVICES)
def kv(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of one of the services."""
    path: Path = SERVICES[request.param]
    monkeypatch.syspath_prepend(str(path.parent))
    for sibling in path.parent.glob("*.py"):
        monkeypatch.delitem(sys.modules, sibling.stem, raising=False)
    spec = importlib.util.spec_from_file_location(f"kv_{request.param}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def services(kv: ModuleType) -> Iterator[Services]:
    made = Services(kv)
    yield made
    for raft in made.rafts:
        raft.over = True


# --- what operations do ----------------------------------------------------------------------------------------


def test_operations(services: Services) -> None:
    server = services.start()
    session = server.register()
    steps = [
        ("get", ("x",), None),
        ("put", ("x", "1"), None),
        ("append", ("x", "2"), None),
        ("append", ("y", "3"), None),
        ("get", ("x",), "12"),
        ("get", ("y",), "3"),
        ("swap", ("x", "1", "4"), False),
        ("swap", ("x", None, "4"), False),
        ("swap", ("x", "12", ""), True),
        ("get", ("x",), ""),
        ("swap", ("x", None, "5"), False),
        ("swap", ("x", "", "5"), True),
        ("swap", ("z", None, "6"), True),
        ("get", ("z",), "6"),
    ]
    for serial, (op, (key, *args), wanted) in enumerate(steps, 1):
        value = server.said(op, session, serial, key, *args)
        assert value == wanted or op in ("put", "append"), (op, key, args)


def test_a_retry_is_not_carried_out_and_gets_the_first_answer(services: Services) -> None:
    server = services.start()
    session = server.register()
    for _ in range(3):
        assert server.ask("append", session, 1, "x", "a").status == "ok"
    assert server.said("swap", session, 5, "x", "a", "b") is True
    assert server.said("swap", session, 5, "x", "a", "b") is True
    assert server.said("swap", session, 6, "x", "a", "c") is False
    assert server.ask("append", session, 7, "x", "c").status == "ok"
    assert server.said("swap", session, 8, "x", "bc", "d") is True
    server.ask("append", session, 7, "x", "late")
    server.ask("put", session, 1, "x", "late")
    assert server.read("x") == "d"


def test_copies_in_the_log_are_carried_out_once(services: Services) -> None:
    """A request can be in the log several times: each of several leaders may append it before any copy is applied."""
    server = services.start()
    session = server.register()
    server.said("append", session, 1, "x", "a")
    for command in server.raft.begun[-1:] * 3:
        server.raft.commit(command)
    assert server.read("x") == "a"


def test_sessions_with_equal_serials_have_nothing_to_do_with_each_other(services: Services) -> None:
    server = services.start()
    first, second = server.register(), server.register()
    assert first != second
    server.said("append", first, 1, "x", "a")
    server.said("append", second, 1, "x", "b")
    assert server.read("x") == "ab"


# --- sessions --------------------------------------------------------------------------------------------------


def test_a_request_in_an_unknown_session_is_refused(services: Services) -> None:
    server = services.start()
    server.register()
    for session in (-1, 0, 2, 10**9):
        for op, *args in (("put", "1"), ("get",), ("swap", None, "1")):
            assert server.ask(op, session, 1, "x", *args).status == "no_session"
    assert server.read("x") is None


def test_the_session_that_was_used_longest_ago_ends(services: Services) -> None:
    server = services.start(max_sessions=3)
    first, second, third = server.register(), server.register(), server.register()
    server.said("put", first, 1, "x", "1")
    server.said("get", second, 1, "x")
    fourth = server.register()
    assert server.ask("put", third, 1, "x", "3").status == "no_session"
    server.said("put", first, 2, "x", "2")
    server.register()
    assert server.ask("get", second, 2, "x").status == "no_session"
    assert server.said("get", fourth, 1, "x") == "2"
    assert server.said("get", first, 3, "x") == "2"


# --- bad requests, and entries that are not requests -----------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "drop"},
        {"op": "putt", "value": "1"},
        {"op": "", "value": "1"},
        {"op": ["put"], "value": "1"},
        {"op": None},
        {"op": "get", "read": "fast"},
        {"op": "put", "value": "1", "read": None},
        {"op": "put"},
        {"op": "append"},
        {"op": "swap", "expected": "1"},
        {"op": "put", "value": 1},
        {"op": "swap", "value": "1", "expected": 1},
        {"op": "put", "value": "1", "key": 1},
        {"op": "put", "value": "1", "key": None},
        {"op": "put", "value": "1", "serial": "1"},
        {"op": "put", "value": "1", "serial": True},
        {"op": "put", "value": "1", "serial": 0},
        {"op": "put", "value": "1", "client_id": None},
    ],
    ids=str,
)
def test_a_bad_request_does_not_reach_the_log(services: Services, fields: dict[str, Any]) -> None:
    server = services.start()
    session = server.register()
    fields = {"client_id": session, "serial": 1, "key": "x", **fields}
    reply = server.service.client_request(services.kv.ClientRequest(**fields))
    assert reply.status == "bad_request"
    assert len(server.raft.begun) == 1
    assert server.said("get", session, 1, "x") is None


def test_entries_that_are_not_requests_do_not_stop_the_service(services: Services) -> None:
    server = services.start()
    session = server.register()
    server.said("put", session, 1, "x", "1")
    for command in NOT_REQUESTS:
        server.raft.commit(command)
    server.raft.commit(kind="noop")
    server.raft.commit(kind="configuration")
    server.said("append", session, 2, "x", "2")
    assert server.read("x") == "12"


def test_commands_contain_only_json_types(services: Services) -> None:
    server = services.start()
    server.said("swap", server.register(), 1, "x", None, "1")
    for command in server.raft.begun:
        assert _is_json(command)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return all(map(_is_json, value)) if isinstance(value, list) else type(value) in (str, int, bool, type(None))


# --- answers while nothing is committed ------------------------------------------------------------------------


def test_a_server_that_does_not_lead_refuses(services: Services) -> None:
    server = services.start()
    server.raft.leads = False
    assert server.ask("register", 7, 0).status == "not_leader"
    server.raft.commit({})
    assert server.ask("get", 1, 1, "x").status in ("not_leader", "no_session")


def test_a_leader_whose_raft_takes_no_command_says_try_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = services.start()
    monkeypatch.setattr(server.raft, "start", lambda command: (-1, 1, True))
    assert server.ask("register", 7, 0).status == "try_again"


def test_a_leader_that_cannot_commit_says_try_again_in_time(services: Services) -> None:
    server = services.start()
    session = server.register()
    server.raft.commits = False
    since = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.ask, op, session, 1, "x", "1") for op in ("put", "get", "register", "append")]
        assert [each.result(LONG).status for each in asked] == ["try_again"] * 4
    # A service must answer within 2 s, and the suite of lab 3A measures that in the simulator. On a busy machine it may take
    # longer here.
    assert time.monotonic() - since < 5.0


@pytest.mark.parametrize("how", ["steps down", "leads another term", "another entry", "a snapshot"])
def test_no_ok_for_an_entry_that_is_lost(services: Services, how: str) -> None:
    server = services.start()
    session = server.register()
    server.raft.commits = False
    _, snapshot = services.start(max_state=1000).snapshot()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.ask, op, session, 1, "x", "1") for op in ("put", "register")]
        _wait_for(lambda: sum(map(_count_requests, server.raft.begun)) == 3)
        if how == "steps down":
            server.raft.leads = False
        elif how == "leads another term":
            server.raft.term = 2
        elif how == "another entry":
            server.raft.term, server.raft.leads = 2, False
            for value in ("2", "3"):
                # These requests come from another clerk, so their session differs from that of the lost requests.
                server.raft.commit(asdict(services.kv.ClientRequest(session + 100, 1, "put", "x", value)))
        else:
            server.raft.messages.put(ApplyMsg(9, 2, kind="snapshot", snapshot=snapshot))
        assert {each.result(LONG).status for each in asked} <= {"not_leader", "try_again"}


def _count_requests(command: Any) -> int:
    """The number of requests in one entry. A service that batches puts requests that arrive together into one entry, as
    JSON text."""
    return len(json.loads(command)) if isinstance(command, str) else 1


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# --- snapshots -------------------------------------------------------------------------------------------------


def test_no_snapshot_is_taken_below_the_limit(services: Services) -> None:
    small, never = services.start(max_state=1000), services.start(max_state=None)
    small.raft.size, never.raft.size = 1000, 10**6
    for server in (small, never):
        server.said("put", server.register(), 1, "x", "1")
    time.sleep(0.1)  # some services take their snapshots in another thread
    assert small.raft.snapshots.empty()
    assert never.raft.snapshots.empty()


def test_a_server_that_starts_from_a_snapshot_knows_everything(services: Services) -> None:
    old = services.start(max_state=1000, max_sessions=3)
    first, second, third = old.register(), old.register(), old.register()
    assert old.said("swap", second, 4, "x", None, "a") is True
    assert old.said("swap", first, 9, "x", "a", "ä\ud800") is True
    old.said("get", third, 1, "x")
    old.said("append", second, 5, "y", "b")
    index, data = old.snapshot()
    assert isinstance(data, bytes)

    new = services.start(max_sessions=3, snapshot=(index, data))
    assert new.said("get", third, 2, "x") == "ä\ud800"
    assert new.said("swap", first, 9, "x", "a", "ä\ud800") is True
    new.said("append", second, 5, "y", "b")
    assert new.said("get", second, 6, "y") == "b"
    new.said("put", first, 10, "x", "c")
    # The third session was used longest ago, so it ends first: the order in which sessions end is in the snapshot, too.
    new.register()
    assert new.ask("get", third, 3, "x").status == "no_session"
    assert new.said("get", second, 7, "x") == "c"


def test_a_get_repeated_after_a_snapshot_gets_the_same_answer(services: Services) -> None:
    old = services.start(max_state=1000)
    session = old.register()
    old.said("put", session, 1, "x", "1")
    assert old.said("get", session, 2, "x") == "1"
    new = services.start(snapshot=old.snapshot())
    for _ in range(2):
        assert new.said("get", session, 2, "x") == "1"


def test_a_snapshot_replaces_the_state(services: Services) -> None:
    old, new = services.start(max_state=1000), services.start()
    old.said("put", old.register(), 1, "x", "1")
    index, data = old.snapshot()
    session = new.register()
    new.said("put", session, 1, "y", "1")
    new.raft.index = index
    new.raft.messages.put(ApplyMsg(index, 1, kind="snapshot", snapshot=data))
    assert (new.read("x"), new.read("y")) == ("1", None)
    assert new.said("append", session, 2, "x", "2") is None, "session 1 is in the snapshot, too"


@pytest.mark.parametrize("kv", ["reference"], indirect=True)
def test_equal_states_have_equal_snapshots(services: Services) -> None:
    """Other services need not do this. The reference does, so that its snapshots can be compared."""
    taken = []
    for order in (("a", "b"), ("b", "a")):
        server = services.start(max_state=1000)
        session = server.register()
        for serial, key in enumerate(order, 1):
            server.said("put", session, serial, key, "1")
        server.said("put", session, 3, "c", "1")
        taken.append(server.snapshot())
    assert taken[0] == taken[1]


# --- clerks ----------------------------------------------------------------------------------------------------


class Peers:
    """Three servers that a test plays. The leader first gives the replies that the test has prepared, one after the
    other, and then answers every request with "ok". The others refuse all requests."""

    def __init__(self, kv: ModuleType) -> None:
        self.kv = kv
        self.calls: list[Any] = []
        self.prepared: list[Any] = []
        self.register: Any = kv.ClientReply("ok", 11)
        self.refusal: Callable[[int], Any] = lambda server: kv.ClientReply("not_leader")
        self.leader = 2
        self.lock = threading.Lock()

    def __getitem__(self, server: int) -> Any:
        peers = self

        class Peer:
            def call(self, method: str, args: Any) -> Any:
                assert method == "client_request"
                return peers.call(server, args)

        return Peer()

    def call(self, server: int, args: Any) -> Any:
        with self.lock:
            if server != self.leader:
                return self.refusal(server)
            self.calls.append(args)
            if args.op == "register":
                return self.register
            return self.prepared.pop(0) if self.prepared else self.kv.ClientReply("ok", None)

    def clerk(self) -> Any:
        clerk = self.kv.Clerk([self[server] for server in range(3)], 7)
        assert self.calls == []
        return clerk


@pytest.fixture
def peers(kv: ModuleType) -> Peers:
    return Peers(kv)


def test_a_clerk_finds_the_leader_registers_once_and_counts_up(peers: Peers) -> None:
    clerk = peers.clerk()
    clerk.put("x", "1")
    peers.prepared = [peers.kv.ClientReply("ok", "1"), peers.kv.ClientReply("ok", False)]
    assert clerk.get("x") == "1"
    assert clerk.swap("x", None, "2") is False
    clerk.append("x", "3")
    ops = [(call.op, call.client_id, call.key, call.value, call.expected) for call in peers.calls]
    assert ops == [
        ("register", 7, "", None, None),
        ("put", 11, "x", "1", None),
        ("get", 11, "x", None, None),
        ("swap", 11, "x", "2", None),
        ("append", 11, "x", "3", None),
    ]
    serials = [call.serial for call in peers.calls]
    assert serials == sorted(set(serials))
    assert serials[0] == 0


def test_a_clerk_repeats_a_request_with_its_serial(peers: Peers) -> None:
    clerk = peers.clerk()
    reply = peers.kv.ClientReply
    peers.prepared = [None, reply("try_again"), None, reply("not_leader", leader=1), reply("ok", True)]
    assert clerk.swap("x", None, "1") is True
    tries = [call for call in peers.calls if call.op == "swap"]
    assert len(tries) >= 5
    assert all(each == tries[0] for each in tries)


@pytest.mark.parametrize("hint", [None, -1, 99, "itself", "circle"])
def test_a_clerk_does_not_trust_hints(peers: Peers, hint: Any) -> None:
    def refusal(server: int) -> Any:
        return peers.kv.ClientReply("not_leader", leader={"itself": server, "circle": 1 - server}.get(hint, hint))

    peers.refusal = refusal
    clerk = peers.clerk()
    clerk.put("x", "1")
    peers.leader = 1
    clerk.put("x", "2")
    assert {call.value for call in peers.calls} == {None, "1", "2"}


def test_a_register_that_is_lost_is_sent_again(peers: Peers) -> None:
    replies = [None, peers.kv.ClientReply("try_again"), peers.kv.ClientReply("ok", 13)]
    clerk = peers.clerk()
    called = peers.call

    def call(server: int, args: Any) -> Any:
        if args.op == "register":
            with peers.lock:
                return replies.pop(0) if len(replies) > 1 else replies[0]
        return called(server, args)

    peers.call = call  # type: ignore[method-assign]
    clerk.put("x", "1")
    assert peers.calls[-1].client_id == 13


def test_a_request_refused_for_its_session_is_sent_in_a_new_one(peers: Peers) -> None:
    clerk = peers.clerk()
    clerk.put("x", "0")
    peers.register = peers.kv.ClientReply("ok", 21)
    peers.prepared = [peers.kv.ClientReply("no_session")]
    clerk.put("x", "1")
    assert [(call.op, call.client_id) for call in peers.calls[2:]] == [("put", 11), ("register", 7), ("put", 21)]


def test_a_session_that_ended_after_a_lost_reply_makes_the_result_unknown(peers: Peers) -> None:
    clerk = peers.clerk()
    clerk.put("x", "0")
    peers.register = peers.kv.ClientReply("ok", 21)
    peers.prepared = [None, peers.kv.ClientReply("no_session")]
    with pytest.raises(Unknown):
        clerk.append("x", "1")
    clerk.append("x", "2")
    assert [call.value for call in peers.calls if call.client_id == 21] == ["2"]
    peers.prepared = [None, peers.kv.ClientReply("no_session"), peers.kv.ClientReply("ok", "02")]
    assert clerk.get("x") == "02"


def test_a_bad_request_raises_value_error_and_uses_up_its_serial(peers: Peers) -> None:
    clerk = peers.clerk()
    peers.prepared = [peers.kv.ClientReply("bad_request")]
    with pytest.raises(ValueError):
        clerk.put("x", "1")
    clerk.put("x", "2")
    serials = [call.serial for call in peers.calls if call.op == "put"]
    assert len(set(serials)) == 2
