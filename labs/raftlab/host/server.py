"""The server's stub, whichever world it lives in: one student's ``Raft`` joined to its peers, storage and service.

What a student's code can reach (``peers``, ``persister``, ``apply_ch``) and what its mistakes are called is
the same in the simulator and on the real network, so it is written here once. How a thread is started and how
a call waits for its reply differ; :class:`raftlab.host.sim_server.SimServer` and
:class:`raftlab.host.rpyc_server.RpycServer` supply these.
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from raftlab.host import student_frames
from raftlab.host.stdlib import RefusedCall
from raftlab.messages import codec as wire
from raftlab.messages import protocol

# `threading` is Python's own here, in both worlds. In the simulator these locks are never contended: student
# threads take turns, and none of them gives way inside this module while it holds one.


class Peer:
    """The student's end of a wire (:class:`raftlab.api.Peer`)."""

    __slots__ = ("_server", "_target")

    def __init__(self, server: Server, target: int) -> None:
        self._server = server
        self._target = target

    def call(self, method: str, args: Any) -> Any:
        server = self._server
        try:
            payload = server.codec.encode_args(method, args)
        except (TypeError, ValueError) as exc:
            server.misuse("not-by-value" if isinstance(exc, wire.NotByValue) else "bad-peer", exc)
            raise
        data = server.ask(self._target, method, payload)
        try:
            return None if data is None else server.codec.decode_reply(method, data)
        except wire.BadMessage as exc:
            server.misuse("bad-message", exc)
            raise

    def __repr__(self) -> str:
        return f"<peer S{self._target}>"


class DiskFailed(OSError):
    """What a failing save raises. Code that lets it pass has done right: a server without a disk had better be down."""


def _by_the_disk(exc: BaseException) -> bool:
    """Whether ``exc`` is a failed save, or was raised on account of one."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, DiskFailed):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


class Persister:
    """Stable storage (:class:`raftlab.api.Persister`). The judge keeps the truth; this is its copy."""

    def __init__(self, server: Server, state: bytes, snapshot: bytes) -> None:
        self._server = server
        self._state = state
        self._snapshot = snapshot
        self._lock = threading.RLock()  # two threads that save leave both copies in the same order
        self.failing = 0

    def save(self, state: bytes, snapshot: bytes | None = None) -> None:
        for name, value in (("state", state), ("snapshot", snapshot)):
            if not isinstance(value, bytes) and not (name == "snapshot" and value is None):
                exc = TypeError(f"persister.save wants bytes for {name}, not {type(value).__name__}")
                self._server.misuse("not-by-value", exc)
                raise exc
        with self._lock:
            if self.failing:
                self.failing -= 1
                raise DiskFailed(5, "the disk failed; nothing was stored")
            self._state = state
            if snapshot is not None:
                self._snapshot = snapshot
            self._server.emit(protocol.Save(self._server.id, state, snapshot))

    def state(self) -> bytes:
        return self._state

    def snapshot(self) -> bytes:
        return self._snapshot


class ApplyChannel:
    """The way to the service (:class:`raftlab.api.ApplyChannel`)."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def put(self, msg: Any) -> None:
        server = self._server
        try:
            payload = wire.encode_apply(msg)
        except (TypeError, ValueError) as exc:
            server.misuse("bad-apply", exc)
            raise
        server.before_put()
        if server.slow_apply:
            server.linger(server.slow_apply)
        server.emit(protocol.Apply(server.id, payload))


class Server(ABC):
    """One incarnation of one server. ``files`` are the student's, as tracebacks call them."""

    def __init__(self, boot: protocol.Boot, files: Collection[str]) -> None:
        self.id = boot.server
        self.files = files
        self.raft: Any = None
        self.codec: wire.Codec
        self.slow_apply = 0.0
        self._boot = boot
        self._persister = Persister(self, boot.state, boot.snapshot)
        self._gate = threading.Lock()
        self._waiting: list[protocol.Request | protocol.Call] = []

    # --- what a world supplies ---

    @abstractmethod
    def emit(self, effect: protocol.Effect) -> None:
        """Send ``effect`` to the judge, behind everything this thread sent before."""

    @abstractmethod
    def ask(self, target: int, method: str, payload: bytes) -> bytes | None:
        """Send a request and block the calling thread until its reply, or the news that there is none."""

    @abstractmethod
    def reply(self, event: protocol.Reply) -> None:
        """Wake the thread that :meth:`ask` blocked."""

    @abstractmethod
    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        """Run ``run(*args)``, which enters student code, in a thread of its own; see :meth:`uncaught`."""

    @abstractmethod
    def load(self) -> ModuleType:
        """Import the student's module. Whatever its code raises passes through."""

    @abstractmethod
    def linger(self, seconds: float) -> None:
        """Keep the calling thread for ``seconds`` of the lab's time."""

    def before_put(self) -> None:  # noqa: B027  (a hook: nothing is the default)
        """Student code is about to put a message into ``apply_ch``."""

    # --- events ---

    def start(self) -> None:
        """Construct the student's ``Raft``; :class:`~raftlab.messages.protocol.Ready` follows."""
        self.enter("Raft()", self._construct)

    def deliver(self, event: protocol.Request | protocol.Call) -> None:
        """A request of a peer's or a call of the harness's. Before ``Raft()`` has returned, it waits."""
        with self._gate:
            if self.raft is None:
                self._waiting.append(event)
                return
        self._admit(event)

    def fail_saves(self, count: int) -> None:
        self._persister.failing = count

    # --- entries into student code ---

    def _admit(self, event: protocol.Request | protocol.Call) -> None:
        if isinstance(event, protocol.Request):
            self.enter(f"the {event.method} handler", self._handle, event)
        else:
            self.enter(f"{event.method}()", self._called, event)

    def _construct(self) -> None:
        boot = self._boot
        raft_class = self.load().__dict__["Raft"]
        self.codec = wire.Codec.of(raft_class, wire.RPC_METHODS)
        peers = [Peer(self, target) for target in range(boot.servers)]
        raft = raft_class(peers, self.id, self._persister, ApplyChannel(self), frozenset(boot.members))
        self.emit(protocol.Ready(self.id))
        with self._gate:
            self.raft = raft
            waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._admit(event)

    def _handle(self, event: protocol.Request) -> None:
        try:
            args = self.codec.decode_args(event.method, event.payload)
        except wire.BadMessage as exc:
            # Whoever sent it is to blame, not this handler; the text names the field.
            self.fault("bad-message", f"S{self.id} received a message it cannot read: {exc}")
            return
        reply = getattr(self.raft, event.method)(args)
        try:
            payload = self.codec.encode_reply(event.method, reply)
        except wire.NotByValue as exc:
            self.misuse("bad-reply" if reply is None else "not-by-value", exc)
            return
        self.emit(protocol.Answer(self.id, event.judge_rpc, payload))

    def _called(self, event: protocol.Call) -> None:
        args = wire.decode_value(event.args)
        if event.method == "change_membership":
            args = [frozenset(args[0])]
        result = getattr(self.raft, event.method)(*args)
        if event.method == "status" and result is not None:
            # For reading only, so whatever a student puts there (an Enum for the role, say) is shown and not judged.
            shown = {name: getattr(result, name, None) for name in wire.STATUS_FIELDS}
            result = {name: value if isinstance(value, int) else str(value) for name, value in shown.items()}
        try:
            payload = wire.encode_value(result)
        except wire.NotByValue as exc:
            self.fault("bad-result", f"{event.method}() on S{self.id} returned something odd: {exc}")
            return
        self.emit(protocol.Result(self.id, event.call, payload))

    # --- what went wrong ---

    def fault(self, kind: str, text: str, where: str = "", detail: str = "") -> None:
        self.emit(protocol.Fault(self.id, kind, text, where, detail))

    def uncaught(self, exc: BaseException, role: str) -> None:
        """An exception left student code: name it and end the run. ``SystemExit`` only ends its thread."""
        if isinstance(exc, SystemExit) and "thread" in role:
            return
        if isinstance(exc, RefusedCall):
            return  # already reported where it happened
        if _by_the_disk(exc):
            self.emit(protocol.Down(self.id))
            return
        kind = "init-exception" if self.raft is None and role == "Raft()" else "exception"
        what = "Raft() raised" if kind == "init-exception" else f"an exception nobody caught in {role}"
        where = student_frames.where(exc.__traceback__, self.files)
        self.fault(
            kind, f"S{self.id}: {what}: {student_frames.sentence(exc)}", where, student_frames.story(exc, self.files)
        )

    def misuse(self, kind: str, exc: Exception) -> None:
        """The contract was broken at the running line. The exception is raised there too, but cannot be hidden."""
        where = student_frames.where_frame(sys._getframe(1), self.files)
        self.fault(kind, f"S{self.id}: {exc}", where)
