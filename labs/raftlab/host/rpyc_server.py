"""One server on the real network: the common server code with Python's own threads and a connection to the judge."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from raftlab.host import real_threads
from raftlab.host.server import Server
from raftlab.messages import protocol
from raftlab.messages.rpyc_connection import BytesConnection
from raftlab.participants import name_of

# Maximum number of effects that are sent together.
_MAX_BATCH = 256


class Outbox:
    """Sends effects to the judge, in order.

    The thread that has an effect sends it, together with the effects that other threads add meanwhile. (With a
    dedicated sender thread, every RPC would cost two more thread switches, and throughput would be a third lower.)"""

    def __init__(self, connection: BytesConnection) -> None:
        self._connection = connection
        self._queue: deque[protocol.Effect] = deque()
        self._send_lock = threading.Lock()

    def put(self, effect: protocol.Effect) -> None:
        """Send ``effect``, or leave it to the thread that is sending. Ends the process if the judge is gone."""
        queue = self._queue
        queue.append(effect)
        # Check the queue again after each release: a thread that failed to get the lock has left its effect to this
        # thread.
        while queue and self._send_lock.acquire(False):
            try:
                self._send()
            except EOFError:
                os._exit(0)
            finally:
                self._send_lock.release()

    def _send(self) -> None:
        queue = self._queue
        batch: list[protocol.Effect] = []
        while queue and len(batch) < _MAX_BATCH:
            batch.append(queue.popleft())
        data = protocol.encode(batch)
        if len(data) <= protocol.MAX_HOST_FRAME_BYTES:
            self._connection.send(data)
            return
        for effect in batch:
            data = protocol.encode([effect])
            if len(data) > protocol.MAX_HOST_FRAME_BYTES:
                name = "log line" if isinstance(effect, protocol.LogLine) else type(effect).__name__.lower()
                text = f"{name_of(effect.server)}: one {name} of {len(data)} bytes is more than raftlab can send"
                data = protocol.encode([protocol.Fault(effect.server, "flood", text)])
            self._connection.send(data)


class _Worker(threading.Thread):
    """A thread of :class:`Workers`. It runs a job, then waits for the next."""

    def __init__(self, idle: list[_Worker], job: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._idle = idle
        self._job: Callable[[], None] | None = job
        self._wake = threading.Lock()
        self._wake.acquire()

    def assign(self, job: Callable[[], None]) -> None:
        self._job = job
        self._wake.release()

    def run(self) -> None:
        while True:
            job, self._job = self._job, None
            assert job is not None
            job()
            self._idle.append(self)
            self._wake.acquire()


class Workers:
    """A thread pool that grows to the number of concurrent jobs, so no job waits for another. Threads are reused."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self.count = 0

    def run(self, job: Callable[[], None]) -> None:
        """Run ``job``, which must not raise, in a thread. Raises ``RuntimeError`` if no more threads can be started."""
        try:
            worker = self._idle.pop()
        except IndexError:
            _Worker(self._idle, job).start()
            self.count += 1
        else:
            worker.assign(job)


class _PendingCall:
    """An RPC that student code has sent. Its caller waits for the reply."""

    __slots__ = ("arrived", "payload")

    def __init__(self) -> None:
        self.payload: bytes | None = None
        self.arrived = threading.Lock()
        self.arrived.acquire()


class _PendingPut:
    """An ``apply_ch.put`` that waits for the service."""

    __slots__ = ("arrived", "taken")

    def __init__(self) -> None:
        self.taken: protocol.Taken | None = None
        self.arrived = threading.Event()


class RpycServer(Server):
    """The only server of this process. ``load`` imports the student's module."""

    def __init__(
        self, boot: protocol.Boot, files: Collection[str], load: Callable[[str], ModuleType], outbox: Outbox
    ) -> None:
        super().__init__(boot, files)
        self._load = load
        self._outbox = outbox
        self._workers = Workers()
        self._roles: dict[int, str] = {}  # what the busy threads of `_workers` do, by thread identifier
        self._numbers = itertools.count(1)  # next() of a C iterator is atomic: two threads never get the same number
        self._pending: dict[int, _PendingCall] = {}
        self._putting: deque[_PendingPut] = deque()
        self._put_lock = threading.Lock()  # the judge must get concurrent puts in the order of `_putting`

    def emit(self, effect: protocol.Effect) -> None:
        self._outbox.put(effect)

    def load(self, name: str) -> ModuleType:
        return self._load(name)

    def make_queue(self) -> Any:
        return queue.SimpleQueue()

    def send_request(self, target: int, method: str, payload: bytes) -> bytes | None:
        number = next(self._numbers)
        call = self._pending[number] = _PendingCall()
        self.emit(protocol.Send(self.id, number, target, method, payload))
        call.arrived.acquire()
        return call.payload

    def delay(self, seconds: float) -> None:
        time.sleep(seconds)

    def reply(self, event: protocol.Reply) -> None:
        call = self._pending.pop(event.caller_rpc, None)
        if call is not None:
            call.payload = event.payload
            call.arrived.release()

    def emit_and_wait(self, effect: protocol.Apply) -> protocol.Taken:
        put = _PendingPut()
        with self._put_lock:
            self._putting.append(put)
            self.emit(effect)
        put.arrived.wait()
        assert put.taken is not None
        return put.taken

    def taken(self, event: protocol.Taken) -> None:
        put = self._putting.popleft()
        put.taken = event
        put.arrived.set()

    def list_threads(self) -> None:
        """Send :class:`~raftlab.messages.protocol.Threads`."""
        self.emit(protocol.Threads(self.id, real_threads.describe(dict(self._roles), self.files)))

    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        def guarded() -> None:
            thread = threading.get_ident()
            self._roles[thread] = role
            try:
                run(*args)
            except BaseException as exc:
                self.uncaught(exc, role)
            finally:
                del self._roles[thread]

        try:
            self._workers.run(guarded)
        except RuntimeError:  # "can't start new thread"
            text = (
                f"{self.name}: {self._workers.count} handlers and calls are running in your code and none has returned"
            )
            self.fault("no-answer", f"{text}; the machine cannot start more threads")
