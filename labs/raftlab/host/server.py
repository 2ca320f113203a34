"""The stub around one student's ``Raft``, which connects it to its peers, storage and service in both worlds.

The objects that student code gets (``peers``, ``persister``, ``apply_ch``) and the reports of its mistakes are the
same in the simulator and on the real network. How a thread is started and how a call waits for its reply differ:
:class:`raftlab.host.sim_server.SimServer` and :class:`raftlab.host.rpyc_server.RpycServer` supply these.
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
from raftlab.messages import codec, protocol

# `threading` is Python's own here, in both worlds. In the simulator these locks are never contended: student threads
# take turns, and none of them gives way while it holds one.


class Peer:
    """What student code calls to send an RPC to a server (:class:`raftlab.api.Peer`)."""

    __slots__ = ("_server", "_target")

    def __init__(self, server: Server, target: int) -> None:
        self._server = server
        self._target = target

    def call(self, method: str, args: Any) -> Any:
        server = self._server
        try:
            payload = server.codec.encode_args(method, args)
        except (TypeError, ValueError) as exc:
            server.misuse("not-by-value" if isinstance(exc, codec.NotByValue) else "bad-peer", exc)
            raise
        data = server.send_request(self._target, method, payload)
        try:
            return None if data is None else server.codec.decode_reply(method, data)
        except codec.BadMessage as exc:
            server.misuse("bad-message", exc)
            raise

    def __repr__(self) -> str:
        return f"<peer S{self._target}>"


class DiskFailed(OSError):
    """Raised by a failing save. Student code need not catch it: a server whose disk has failed should go down."""


def _caused_by_disk(exc: BaseException) -> bool:
    """Whether ``exc`` is a failed save, or was raised because of one."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, DiskFailed):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


class Persister:
    """Stable storage (:class:`raftlab.api.Persister`). The judge has the authoritative copy; this one is for reading."""

    def __init__(self, server: Server, state: bytes, snapshot: bytes) -> None:
        self._server = server
        self._state = state
        self._snapshot = snapshot
        self._lock = threading.RLock()  # when two threads save, both copies must change in the same order
        self.failing = 0  # number of saves that must still fail

    def save(self, state: bytes, snapshot: bytes | None = None) -> None:
        for name, value in (("state", state), ("snapshot", snapshot)):
            if not isinstance(value, bytes) and not (name == "snapshot" and value is None):
                exc = TypeError(f"persister.save expects bytes for {name}, not {type(value).__name__}")
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
    """Where student code puts messages for the service (:class:`raftlab.api.ApplyChannel`)."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def put(self, msg: Any) -> None:
        server = self._server
        try:
            payload = codec.encode_apply(msg)
        except (TypeError, ValueError) as exc:
            server.misuse("bad-apply", exc)
            raise
        server.before_put()
        if server.slow_apply:
            server.delay(server.slow_apply)
        server.emit(protocol.Apply(server.id, payload))


class Server(ABC):
    """One incarnation of one server.

    Args:
        boot: Its number, cluster, stored state and seed.
        files: The student's files by their names in tracebacks.
    """

    def __init__(self, boot: protocol.Boot, files: Collection[str]) -> None:
        self.id = boot.server
        self.files = files
        self.raft: Any = None
        self.codec: codec.Codec
        self.slow_apply = 0.0
        self._boot = boot
        self._persister = Persister(self, boot.state, boot.snapshot)
        self._start_lock = threading.Lock()  # guards `raft` and `_early`
        self._early: list[protocol.Request | protocol.Call] = []

    # --- supplied by each world ---

    @abstractmethod
    def emit(self, effect: protocol.Effect) -> None:
        """Send ``effect`` to the judge, after everything that this thread has sent before."""

    @abstractmethod
    def send_request(self, target: int, method: str, payload: bytes) -> bytes | None:
        """Send a request and block the calling thread until the judge delivers the reply, or ``None`` for no reply."""

    @abstractmethod
    def reply(self, event: protocol.Reply) -> None:
        """Wake the thread that :meth:`send_request` blocked."""

    @abstractmethod
    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        """Run ``run(*args)``, which calls student code, in its own thread. Pass what it raises to :meth:`uncaught`.

        ``role`` says what the thread is for, in words a student knows."""

    @abstractmethod
    def load(self) -> ModuleType:
        """Import the student's module. Exceptions from its code propagate."""

    @abstractmethod
    def delay(self, seconds: float) -> None:
        """Block the calling thread for ``seconds`` (virtual ones in the simulator)."""

    def before_put(self) -> None:  # noqa: B027  (a hook that does nothing by default)
        """Student code is about to put a message into ``apply_ch``."""

    # --- events ---

    def start(self) -> None:
        """Construct the student's ``Raft``, then emit :class:`~raftlab.messages.protocol.Ready`."""
        self.enter("Raft()", self._construct)

    def deliver(self, event: protocol.Request | protocol.Call) -> None:
        """Handle a request from a peer or a call from the harness, but not before ``Raft()`` has returned."""
        with self._start_lock:
            if self.raft is None:
                self._early.append(event)
                return
        self._start_entry(event)

    def fail_saves(self, count: int) -> None:
        """Let the next ``count`` saves raise :class:`DiskFailed`."""
        self._persister.failing = count

    # --- calls into student code ---

    def _start_entry(self, event: protocol.Request | protocol.Call) -> None:
        if isinstance(event, protocol.Request):
            self.enter(f"the {event.method} handler", self._handle_request, event)
        else:
            self.enter(f"{event.method}()", self._handle_call, event)

    def _construct(self) -> None:
        boot = self._boot
        raft_class = self.load().__dict__["Raft"]
        self.codec = codec.Codec.of(raft_class, codec.RPC_METHODS)
        peers = [Peer(self, target) for target in range(boot.servers)]
        raft = raft_class(peers, self.id, self._persister, ApplyChannel(self), frozenset(boot.members))
        self.emit(protocol.Ready(self.id))
        with self._start_lock:
            self.raft = raft
            early, self._early = self._early, []
        for event in early:
            self._start_entry(event)

    def _handle_request(self, event: protocol.Request) -> None:
        try:
            args = self.codec.decode_args(event.method, event.payload)
        except codec.BadMessage as exc:
            # The sender is to blame, not this handler. The text names the field.
            self.fault("bad-message", f"S{self.id} received a message it cannot read: {exc}")
            return
        reply = getattr(self.raft, event.method)(args)
        try:
            payload = self.codec.encode_reply(event.method, reply)
        except codec.NotByValue as exc:
            self.misuse("bad-reply" if reply is None else "not-by-value", exc)
            return
        self.emit(protocol.Answer(self.id, event.judge_rpc, payload))

    def _handle_call(self, event: protocol.Call) -> None:
        args = codec.decode_value(event.args)
        if event.method == "change_membership":
            args = [frozenset(args[0])]
        result = getattr(self.raft, event.method)(*args)
        if event.method == "status" and result is not None:
            # It is only displayed, so any value (an Enum for the role, say) is shown as text and is never a fault.
            shown = {name: getattr(result, name, None) for name in codec.STATUS_FIELDS}
            result = {name: value if isinstance(value, int) else str(value) for name, value in shown.items()}
        try:
            payload = codec.encode_value(result)
        except codec.NotByValue as exc:
            self.fault("bad-result", f"{event.method}() on S{self.id} returned a value that cannot be sent: {exc}")
            return
        self.emit(protocol.Result(self.id, event.call, payload))

    # --- faults ---

    def fault(self, kind: str, text: str, where: str = "", detail: str = "") -> None:
        """Report a mistake in student code, which ends the run. See :class:`~raftlab.messages.protocol.Fault`."""
        self.emit(protocol.Fault(self.id, kind, text, where, detail))

    def uncaught(self, exc: BaseException, role: str) -> None:
        """Report an exception that student code did not catch. ``SystemExit`` only ends its thread."""
        if isinstance(exc, SystemExit) and "thread" in role:
            return
        if isinstance(exc, RefusedCall):
            return  # reported where it was raised
        if _caused_by_disk(exc):
            self.emit(protocol.Down(self.id))
            return
        kind = "init-exception" if self.raft is None and role == "Raft()" else "exception"
        what = "Raft() raised" if kind == "init-exception" else f"uncaught exception in {role}"
        where = student_frames.last_line(exc.__traceback__, self.files)
        self.fault(
            kind,
            f"S{self.id}: {what}: {student_frames.one_line(exc)}",
            where,
            student_frames.student_traceback(exc, self.files),
        )

    def misuse(self, kind: str, exc: Exception) -> None:
        """Report that the running line broke the contract. ``exc`` is raised there too, but catching it does not help."""
        where = student_frames.innermost_line(sys._getframe(1), self.files)
        self.fault(kind, f"S{self.id}: {exc}", where)
