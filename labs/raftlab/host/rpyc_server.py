"""One server on the real network: the common stub, with Python's own threads and a line to the judge."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from raftlab.host.server import Server
from raftlab.messages import protocol
from raftlab.messages.rpyc_connection import BytesConnection

# Effects that wait for the line are sent together, but not without bound.
_BATCH = 256


class Outbox:
    """The way of effects to the judge.

    Whoever has something to send does so himself (a thread for it would cost every RPC two more switches of
    thread: a third of the rate); what others bring meanwhile goes out in the same breath. Nobody overtakes."""

    def __init__(self, line: BytesConnection) -> None:
        self._line = line
        self._queue: deque[protocol.Effect] = deque()
        self._sending = threading.Lock()

    def put(self, effect: protocol.Effect) -> None:
        """Send ``effect``, or leave it to the thread that is sending. Ends the process when the judge is gone."""
        queue = self._queue
        queue.append(effect)
        # Looked at again after each release: what came in while we held the lock is nobody else's to send.
        while queue and self._sending.acquire(False):
            try:
                self._send()
            except EOFError:
                os._exit(0)
            finally:
                self._sending.release()

    def _send(self) -> None:
        queue = self._queue
        batch: list[protocol.Effect] = []
        while queue and len(batch) < _BATCH:
            batch.append(queue.popleft())
        data = protocol.encode(batch)
        if len(data) <= protocol.MAX_FRAME_BYTES:
            self._line.send(data)
            return
        for effect in batch:
            data = protocol.encode([effect])
            if len(data) > protocol.MAX_FRAME_BYTES:
                name = "log line" if isinstance(effect, protocol.LogLine) else type(effect).__name__.lower()
                text = f"S{effect.server}: one {name} of {len(data)} bytes is more than the lab can carry"
                data = protocol.encode([protocol.Fault(effect.server, "flood", text)])
            self._line.send(data)


class _Worker(threading.Thread):
    """One of the :class:`Workers`: runs a job, then waits for the next."""

    def __init__(self, idle: list[_Worker], job: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._idle = idle
        self._job: Callable[[], None] | None = job
        self._wake = threading.Lock()
        self._wake.acquire()

    def give(self, job: Callable[[], None]) -> None:
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
    """As many threads as there are jobs at the same time, kept for the next ones: no job waits for another."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self.count = 0

    def run(self, job: Callable[[], None]) -> None:
        """Run ``job``, which must not raise, in a thread. Raises ``RuntimeError`` when no more can be started."""
        try:
            worker = self._idle.pop()
        except IndexError:
            _Worker(self._idle, job).start()
            self.count += 1
        else:
            worker.give(job)


class _Asked:
    """A call of the student's that waits for its reply."""

    __slots__ = ("arrived", "payload")

    def __init__(self) -> None:
        self.payload: bytes | None = None
        self.arrived = threading.Lock()
        self.arrived.acquire()


class RpycServer(Server):
    """The one server of this process. ``load`` imports the student's module."""

    def __init__(
        self, boot: protocol.Boot, files: Collection[str], load: Callable[[], ModuleType], outbox: Outbox
    ) -> None:
        super().__init__(boot, files)
        self._load = load
        self._outbox = outbox
        self._workers = Workers()
        self._numbers = itertools.count(1)  # next() of a C iterator: two threads never get the same one
        self._asked: dict[int, _Asked] = {}

    def emit(self, effect: protocol.Effect) -> None:
        self._outbox.put(effect)

    def load(self) -> ModuleType:
        return self._load()

    def ask(self, target: int, method: str, payload: bytes) -> bytes | None:
        number = next(self._numbers)
        asked = self._asked[number] = _Asked()
        self.emit(protocol.Send(self.id, number, target, method, payload))
        asked.arrived.acquire()
        return asked.payload

    def linger(self, seconds: float) -> None:
        time.sleep(seconds)

    def reply(self, event: protocol.Reply) -> None:
        asked = self._asked.pop(event.caller_rpc, None)
        if asked is not None:
            asked.payload = event.payload
            asked.arrived.release()

    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        def guarded() -> None:
            try:
                run(*args)
            except BaseException as exc:
                self.uncaught(exc, role)

        try:
            self._workers.run(guarded)
        except RuntimeError:  # "can't start new thread"
            text = f"S{self.id}: {self._workers.count} handlers and calls are inside your code and none returns"
            self.fault("no-answer", f"{text}; the machine gives no more threads")
