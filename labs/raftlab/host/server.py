"""The code around the student's code on one server or clerk: it connects that code to the network and to the judge.

A server runs a ``Raft``, and from lab 3A on a ``KVServer`` above it; a clerk runs a ``Clerk``. The objects that student
code gets (``peers``, ``persister``, ``apply_ch``) and the reports of the code's mistakes are the same in the simulator
and on the real network. Two things differ: how a thread is started, and how a call waits for its reply.
:class:`raftlab.host.sim_server.SimServer` and :class:`raftlab.host.rpyc_server.RpycServer` supply these.
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from raftlab import api
from raftlab.host import student_frames
from raftlab.host.output import printable
from raftlab.host.service import RaftOfService, copy_of
from raftlab.host.stdlib import RefusedCall
from raftlab.messages import codec, protocol
from raftlab.messages.saved_state import SavedState
from raftlab.participants import name_of
from raftlab.submission.source import SubmissionError

# `threading` is Python's own in this module, in both worlds. In the simulator, no thread ever waits for a lock of this
# module: student threads take turns, and a thread never gives way while it holds such a lock.


class Peer:
    """The object through which student code sends RPCs to a server (:class:`raftlab.api.Peer`)."""

    __slots__ = ("_server", "_target")

    def __init__(self, server: Server, target: int) -> None:
        self._server = server
        self._target = target

    def call(self, method: str, args: Any) -> Any:
        server = self._server
        server.sending(args)
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


# What to say if the constructor of one of the student's objects raises, by the role of the thread that calls the
# constructor.
_CONSTRUCTORS = {"Raft()": "Raft() raised", "KVServer()": "KVServer() raised", "Clerk()": "Clerk() raised"}


class DiskFailed(OSError):
    """Raised by a save or append that fails. Student code need not catch it: a server whose disk failed should go down."""


def _caused_by_disk(exc: BaseException) -> bool:
    """Whether ``exc`` comes from a failed save or append, directly or as its cause or context."""
    seen: set[int] = set()  # causes can be a circle: ``raise exc from exc``
    cause: BaseException | None = exc
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, DiskFailed):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


class Persister:
    """Stable storage (:class:`raftlab.api.Persister`). The judge has the authoritative copy; this one is for reading."""

    def __init__(self, server: Server, state: bytes, snapshot: bytes) -> None:
        self._server = server
        self._state = SavedState(state)
        self._snapshot = snapshot
        self._lock = threading.RLock()  # so that concurrent saves change both copies in the same order
        self.failing = 0  # number of saves and appends that must still fail

    def save(self, state: bytes, snapshot: bytes | None = None) -> None:
        self._require_bytes(state, "persister.save expects bytes for state")
        if snapshot is not None:
            self._require_bytes(snapshot, "persister.save expects bytes for snapshot")
        self._server.using("persister", True)
        self._server.before_save()
        with self._lock:
            self._require_working_disk()
            self._state.replace(state)
            if snapshot is not None:
                self._snapshot = snapshot
            self._server.emit(protocol.Save(self._server.id, state, snapshot))

    def append(self, data: bytes) -> None:
        self._require_bytes(data, "persister.append expects bytes")
        self._server.using("persister", True)
        self._server.before_save()
        with self._lock:
            self._require_working_disk()
            self._state.append(data)
            self._server.emit(protocol.Append(self._server.id, data))

    def _require_bytes(self, value: object, expected: str) -> None:
        if not isinstance(value, bytes):
            exc = TypeError(f"{expected}, not {type(value).__name__}")
            self._server.misuse("not-by-value", exc)
            raise exc

    def _require_working_disk(self) -> None:
        if self.failing:
            self.failing -= 1
            raise DiskFailed(5, "the disk failed; nothing was stored")

    def state(self) -> bytes:
        self._server.using("persister", False)
        with self._lock:
            return self._state.read()

    def snapshot(self) -> bytes:
        self._server.using("persister", False)
        return self._snapshot

    def state_size(self) -> int:
        """The size of the saved state in bytes, without the snapshot. A ``KVServer`` gets this function as ``stored``."""
        return self._state.size


class ApplyChannel:
    """The channel into which student code puts messages for the service (:class:`raftlab.api.ApplyChannel`)."""

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
        server.using("apply_ch", True)
        if server.slow_apply:
            server.delay(server.slow_apply)
        effect = protocol.Apply(server.id, payload)
        if server.applied_queue is not None:
            server.emit(effect)
            server.applied_queue.put(copy_of(msg))
        elif server.put_waits:
            taken = server.emit_and_wait(effect)
            if taken.index and server.raft is not None:
                server.raft.snapshot(taken.index, taken.data)
        else:
            server.emit(effect)
        server.after_put()


class Server(ABC):
    """One incarnation of one server or clerk.

    Args:
        boot: Its role, number, cluster, stored state and seed.
        files: The names that the student's files have in tracebacks.

    Attributes:
        raft: The student's Raft, once it is constructed.
        service: The student's KVServer, once it is constructed (role "service").
        clerk: The student's Clerk, once it is constructed (role "clerk").
        codec: Encodes and decodes the messages of the student's classes.
        codec_is_ready: Whether ``codec`` knows the messages before the classes are imported (simulator).
        applied_queue: What Raft has applied but the student's service has not taken yet (role "service").
    """

    def __init__(self, boot: protocol.Boot, files: Collection[str]) -> None:
        self.id = boot.server
        self.name = name_of(boot.server)
        self.files = files
        self.raft: Any = None
        self.service: Any = None
        self.clerk: Any = None
        self.applied_queue: Any = None
        self.codec = codec.Codec()
        self.codec_is_ready = False
        self.slow_apply = 0.0
        self.put_waits = boot.put_waits
        self._boot = boot
        self._persister = Persister(self, boot.state, boot.snapshot)
        self._start_lock = threading.Lock()  # guards `raft`, `service`, `clerk` and `_early`
        self._early: list[protocol.Request | protocol.Call] = []

    # --- supplied by each world ---

    @abstractmethod
    def emit(self, effect: protocol.Effect) -> None:
        """Send ``effect`` to the judge, after all effects that this thread has sent before."""

    @abstractmethod
    def send_request(self, target: int, method: str, payload: bytes) -> bytes | None:
        """Send a request, and block the calling thread until the judge delivers the reply or says that there is none.
        Returns the reply; ``None`` if there is none."""

    @abstractmethod
    def reply(self, event: protocol.Reply) -> None:
        """Wake the thread that :meth:`send_request` blocked."""

    @abstractmethod
    def emit_and_wait(self, effect: protocol.Apply) -> protocol.Taken:
        """Send ``effect``, and block the calling thread until the service has taken the message."""

    @abstractmethod
    def taken(self, event: protocol.Taken) -> None:
        """Wake the thread that has waited longest in :meth:`emit_and_wait`."""

    @abstractmethod
    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        """Run ``run(*args)``, which calls student code, in its own thread. Pass any exception to :meth:`uncaught`.

        ``role`` says what the thread is for, in words a student knows."""

    @abstractmethod
    def load(self, name: str) -> ModuleType:
        """Import the student's module ``"raft"`` or ``"kv"``. Exceptions from its code propagate."""

    @abstractmethod
    def make_queue(self) -> Any:
        """A new unbounded ``queue.SimpleQueue``, whose ``get`` blocks the calling thread."""

    @abstractmethod
    def delay(self, seconds: float) -> None:
        """Block the calling thread for ``seconds`` (virtual seconds in the simulator)."""

    def before_save(self) -> None:  # noqa: B027
        """Called when student code is about to save or append."""

    def before_put(self) -> None:  # noqa: B027  (a hook that does nothing by default)
        """Called when student code is about to put a message into ``apply_ch``."""

    def before_raft(self, what: str) -> None:  # noqa: B027
        """Called when the student's service is about to call the method ``what`` of its Raft."""

    def after_put(self) -> None:  # noqa: B027
        """Called when student code has put a message into ``apply_ch``."""

    def sending(self, args: Any) -> None:  # noqa: B027
        """Called when student code calls a peer with ``args``, before ``args`` is encoded."""

    def using(self, what: str, changed: bool) -> None:  # noqa: B027
        """Called when student code reads or changes the contents of ``persister``, or puts into ``apply_ch``."""

    # --- events ---

    def start(self) -> None:
        """Construct the student's objects, then emit :class:`~raftlab.messages.protocol.Ready`."""
        if self._boot.role == "clerk":
            self.enter("Clerk()", self._construct_clerk)
        else:
            self.enter("Raft()", self._construct)

    def deliver(self, event: protocol.Request | protocol.Call) -> None:
        """Handle a request from another participant or a call from the harness. If the student's object for this event
        has not been constructed yet, the event is handled once the object exists."""
        with self._start_lock:
            if self._target(event) is None:
                self._early.append(event)
                return
        self._start_entry(event)

    def _target(self, event: protocol.Request | protocol.Call) -> Any:
        """The student's object that an event is for; ``None`` if it has not been constructed yet."""
        role = self._boot.role
        if role == "raft":
            return self.raft
        if role == "clerk":
            return self.clerk
        if isinstance(event, protocol.Request) and event.method in codec.SERVICE_METHODS:
            return self.service
        return self.raft

    def fail_saves(self, count: int) -> None:
        """Make the next ``count`` saves or appends raise :class:`DiskFailed`."""
        self._persister.failing = count

    # --- calls into student code ---

    def _start_entry(self, event: protocol.Request | protocol.Call) -> None:
        if isinstance(event, protocol.Request):
            self.enter(f"the {event.method} handler", self._handle_request, event)
        else:
            self.enter(f"{event.method}()", self._handle_call, event)

    def _construct(self) -> None:
        boot = self._boot
        raft_class = self.load("raft").__dict__["Raft"]
        self._add_messages(raft_class, codec.RPC_METHODS)
        if boot.role == "service":
            self.applied_queue = self.make_queue()
            try:
                service_class = self.load("kv").__dict__["KVServer"]
            except SubmissionError as exc:
                self.fault("no-method", f"{exc}, which this lab needs")
                return
            self._add_messages(service_class, codec.SERVICE_METHODS)
        peers = self._peers()
        raft = raft_class(peers, self.id, self._persister, ApplyChannel(self), frozenset(boot.members))
        if boot.role != "service":
            self.emit(protocol.Ready(self.id))
            self._constructed(raft=raft)
            return
        self._constructed(raft=raft)
        # The service is constructed in a call of its own: if the constructor deadlocks or raises, the report must not
        # name Raft().
        self.enter("KVServer()", self._construct_service, service_class)

    def _construct_service(self, service_class: Any) -> None:
        boot = self._boot
        service = service_class(
            RaftOfService(self, self.raft),
            self.applied_queue.get,
            self._persister.state_size,
            self.id,
            self._peers(),
            boot.max_state,
            boot.max_sessions,
        )
        self.emit(protocol.Ready(self.id))
        self._constructed(service=service)

    def _construct_clerk(self) -> None:
        module = self.load("kv").__dict__
        self._add_messages(module["KVServer"], codec.SERVICE_METHODS)
        clerk = module["Clerk"](self._peers(), self._boot.client_id)
        self.emit(protocol.Ready(self.id))
        self._constructed(clerk=clerk)

    def _add_messages(self, handlers: type, methods: tuple[str, ...]) -> None:
        """Add the messages of one of the student's classes to the codec."""
        if not self.codec_is_ready:
            self.codec.add(handlers, methods)

    def _peers(self) -> list[Peer]:
        return [Peer(self, target) for target in range(self._boot.servers)]

    def _constructed(self, raft: Any = None, service: Any = None, clerk: Any = None) -> None:
        """Note that an object is constructed: handle its events from now on, beginning with those that came early."""
        with self._start_lock:
            self.raft = self.raft if raft is None else raft
            self.service = self.service if service is None else service
            self.clerk = self.clerk if clerk is None else clerk
            ready = [event for event in self._early if self._target(event) is not None]
            self._early = [event for event in self._early if self._target(event) is None]
        for event in ready:
            self._start_entry(event)

    def _handle_request(self, event: protocol.Request) -> None:
        try:
            args = self.codec.decode_args(event.method, event.payload)
        except codec.UnknownMethod:
            self._lacks(event.method)  # sent by a scripted server: peers[i].call refuses such a method
            return
        except codec.BadMessage as exc:
            # The sender is at fault, not this handler. The text names the field.
            self.fault("bad-message", f"{self.name} received a message it cannot read: {exc}")
            return
        reply = getattr(self._target(event), event.method)(args)
        try:
            payload = self.codec.encode_reply(event.method, reply)
        except codec.NotByValue as exc:
            self.misuse("bad-reply" if reply is None else "not-by-value", exc)
            return
        self.emit(protocol.Answer(self.id, event.judge_rpc, payload))

    def _handle_call(self, event: protocol.Call) -> None:
        args = codec.decode_value(event.args)
        if self.clerk is not None:
            self._operate(event, args)
            return
        if event.method == protocol.HAS_METHOD:
            self.emit(protocol.Result(self.id, event.call, codec.encode_value(hasattr(self.raft, args[0]))))
            return
        if event.method == "change_membership":
            args = [frozenset(args[0])]
        call = getattr(self.raft, event.method, None)
        if call is None:
            self._lacks(event.method)
            return
        result = call(*args)
        if event.method == "status" and result is not None:
            # The result is only displayed. So any value (an Enum for the role, say) is shown as text and is never a
            # fault.
            shown = {name: getattr(result, name, None) for name in codec.STATUS_FIELDS}
            result = {name: value if isinstance(value, int) else str(value) for name, value in shown.items()}
        try:
            payload = codec.encode_value(result)
        except codec.NotByValue as exc:
            self.fault("bad-result", f"{event.method}() on {self.name} returned a value that cannot be sent: {exc}")
            return
        self.emit(protocol.Result(self.id, event.call, payload))

    def _operate(self, event: protocol.Call, args: list[Any]) -> None:
        """Carry out an operation on the student's Clerk."""
        operation = getattr(self.clerk, event.method, None)
        if operation is None:
            text = f"expected Clerk to have the method {event.method}, which this test calls, but it has none"
            self.fault("no-method", text)
            return
        try:
            answer = ["ok", operation(*args)]
        except api.Unknown as exc:
            answer = ["unknown", student_frames.one_line(exc)]
        except ValueError as exc:
            answer = ["refused", student_frames.one_line(exc)]
        try:
            payload = codec.encode_value(answer, f"the result of {event.method}()")
        except codec.NotByValue as exc:
            self.fault("bad-result", f"{event.method}() on {self.name} returned a value that cannot be sent: {exc}")
            return
        self.emit(protocol.Result(self.id, event.call, payload))

    # --- faults ---

    def _lacks(self, method: str) -> None:
        self.fault("no-method", f"expected Raft to have the method {method}, which this test calls, but it has none")

    def fault(self, kind: str, text: str, where: str = "", detail: str = "") -> None:
        """Report a mistake in student code, which ends the run. See :class:`~raftlab.messages.protocol.Fault`."""
        # A student's text, even the name of a thread, may contain characters that cannot be encoded.
        self.emit(protocol.Fault(self.id, kind, printable(text), where, printable(detail)))

    def uncaught(self, exc: BaseException, role: str) -> None:
        """Report an exception that student code did not catch. ``SystemExit`` only ends its thread."""
        if isinstance(exc, SystemExit) and "thread" in role:
            return
        if isinstance(exc, RefusedCall):
            return  # reported where it was raised
        if type(exc).__name__ == "BdbQuit":  # pdb.set_trace() found no terminal
            self.no_debugger(student_frames.last_line(exc.__traceback__, self.files))
            return
        if _caused_by_disk(exc):
            self.emit(protocol.Down(self.id))
            return
        kind = "init-exception" if role in _CONSTRUCTORS else "exception"
        what = _CONSTRUCTORS.get(role, f"uncaught exception in {role}")
        where = student_frames.last_line(exc.__traceback__, self.files)
        self.fault(
            kind,
            f"{self.name}: {what}: {student_frames.one_line(exc)}",
            where,
            student_frames.student_traceback(exc, self.files),
        )

    def no_debugger(self, where: str = "") -> None:
        """Report a ``breakpoint()`` on the real network. ``where`` is its line; empty means the current line."""
        text = "here your code has no terminal. In the simulator, `raftlab test ... --pdb` opens the debugger there"
        where = where or student_frames.innermost_line(sys._getframe(1), self.files)
        self.fault("refused-call", f"{self.name}: breakpoint() does not work on the real network: {text}", where)

    def misuse(self, kind: str, exc: Exception) -> None:
        """Report that the current line broke the contract. The caller also raises ``exc``. The run fails even if
        student code catches ``exc``."""
        where = student_frames.innermost_line(sys._getframe(1), self.files)
        self.fault(kind, f"{self.name}: {exc}", where)
