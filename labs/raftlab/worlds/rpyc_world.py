"""The rpyc world: wall-clock time, one process for each server, every message over TCP on loopback.

A crash is a SIGKILL. The judge opens each connection itself and passes one end to the child that the warm host forks, so
nobody else can connect, and the child needs no access to the network.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

import msgspec

from raftlab.messages import protocol
from raftlab.messages.rpyc_connection import BadFrame, BytesConnection
from raftlab.operating_system import cpu_seconds
from raftlab.participants import name_of
from raftlab.worlds.host_process import WarmHost

# Seconds that a send may block. A child reads all the time in a dedicated thread, and the kernel buffers megabytes for the
# child. So a child that accepts nothing for this long is stopped or stuck in C code.
SEND_TIMEOUT_S = 20.0

# Seconds that a child may take to exit after its connection has closed.
_EXIT_TIMEOUT_S = 2.0

# Seconds that a server may take to answer ListThreads.
_THREADS_TIMEOUT_S = 3.0


class _Process:
    """One running server as the judge sees it: a child process and the connection to it."""

    __slots__ = ("child", "connection", "faulted", "fd", "outgoing", "server", "threads")

    def __init__(self, server: int, child: int, fd: int, connection: BytesConnection) -> None:
        self.server = server
        self.child = child
        self.fd = fd
        self.connection = connection
        self.outgoing: list[protocol.Event] = []
        self.threads: str | None = None  # its last answer to ListThreads
        # Whether the child has reported a fault itself. If so, the judge does not also report the end of its process.
        self.faulted = False


class RpycWorld:
    """One run in real processes: the :class:`~raftlab.worlds.base.World` of the real network.

    Attributes:
        cpu_s: CPU seconds of all servers that have ended so far.
        late_s: the longest time, in seconds, by which the judge itself woke up too late. A large value means that the
            machine is overloaded.
    """

    name = "rpyc"
    virtual = False

    def __init__(self, host: WarmHost) -> None:
        self.cpu_s = 0.0
        self.late_s = 0.0
        self._host = host
        self._began = time.monotonic()
        self._processes: dict[int, _Process] = {}  # by server
        self._by_fd: dict[int, _Process] = {}
        self._poll = select.poll()
        self._effects: list[tuple[float, protocol.Effect]] = []
        self._decode = protocol.decoder(list[protocol.Effect]).decode

    def now(self) -> float:
        return time.monotonic() - self._began

    # --- servers ---

    def boot(self, boot: protocol.Boot) -> None:
        """Fork a process for the server and send it ``boot``. Returns within milliseconds. See
        :meth:`raftlab.worlds.base.World.boot`."""
        if boot.server in self._processes:
            raise ValueError(f"{name_of(boot.server)} is running already")
        ours, theirs = _connected_pair()
        try:
            child = self._host.spawn("rpyc", [theirs.detach()])
        except BaseException:
            ours.close()
            raise
        ours.settimeout(SEND_TIMEOUT_S)
        fd = ours.fileno()
        connection = BytesConnection(ours, lambda data: self._deliver(process, data), protocol.MAX_HOST_FRAME_BYTES)
        process = _Process(boot.server, child, fd, connection)
        self._processes[boot.server] = self._by_fd[fd] = process
        self._poll.register(fd, select.POLLIN)
        # This world uses no seed, and a seed would tell the student's code which run this is.
        process.outgoing.append(msgspec.structs.replace(boot, seed=0))
        self._flush()

    def kill(self, server: int) -> None:
        """SIGKILL the server's process, wait until it is gone, and discard its effects."""
        process = self._processes.get(server)
        if process is not None:
            self._end(process)
        self._effects = [item for item in self._effects if item[1].server != server]

    def threads(self, server: int) -> str:
        process = self._processes.get(server)
        if process is None:
            return ""
        process.threads = None
        process.outgoing.append(protocol.ListThreads(server))
        self._flush()
        deadline = self.now() + _THREADS_TIMEOUT_S
        while process.threads is None and self._by_fd.get(process.fd) is process and self.now() < deadline:
            for fd, _ in self._poll.poll(max(0.0, deadline - self.now()) * 1000):
                other = self._by_fd.get(fd)
                if other is not None:
                    self._read(other)
        return process.threads or ""

    def close(self) -> None:
        for process in list(self._processes.values()):
            self._end(process)

    def _end(self, process: _Process) -> None:
        # Read the CPU time before the connection closes, because the child ends then.
        self.cpu_s += cpu_seconds(self._host.pid(process.child))
        self._forget(process)
        self._host.kill(process.child)

    def _forget(self, process: _Process) -> None:
        self._poll.unregister(process.fd)
        del self._by_fd[process.fd], self._processes[process.server]
        process.connection.close()

    # --- events out ---

    def send_event(self, event: protocol.Event) -> None:
        """Send ``event`` no later than at the beginning of the next :meth:`wait`. An event for a server that is down is
        discarded.

        Raises:
            NotImplementedError: only the simulator supports this event.
        """
        if isinstance(event, protocol.Pause | protocol.Resume | protocol.ClockRate | protocol.Reseed):
            what = type(event).__name__.lower()
            raise NotImplementedError(f"{what} works in the simulator only, not with real processes")
        if isinstance(event, protocol.Crash):
            self.kill(event.server)
            return
        process = self._processes.get(event.server)
        if process is not None:
            process.outgoing.append(event)

    def _flush(self) -> None:
        for process in list(self._processes.values()):
            if process.outgoing:
                events, process.outgoing = process.outgoing, []
                self._send(process, events)

    def _send(self, process: _Process, events: list[protocol.Event]) -> None:
        data = protocol.encode(events)
        if len(data) > protocol.MAX_FRAME_BYTES and len(events) > 1:
            half = len(events) // 2
            self._send(process, events[:half])
            self._send(process, events[half:])
            return
        try:
            process.connection.send(data)
        except TimeoutError:
            if process.server in self._processes:
                self._lose(process, "host-hangs", f"has read nothing for {SEND_TIMEOUT_S:.0f} s")
        except EOFError:
            pass  # `_read` reports the end of the child, after it has read what the child sent before that

    # --- effects in ---

    def wait(self, until: float, due: Sequence[tuple[float, protocol.Event]]) -> protocol.StepResult:
        consumed, count = 0, len(due)
        while True:
            now = self.now()
            while consumed < count and due[consumed][0] <= now:
                self.send_event(due[consumed][1])
                consumed += 1
            self._flush()
            next_due = min(until, due[consumed][0]) if consumed < count else until
            timeout = 0.0 if self._effects else max(0.0, next_due - now)
            # poll() rounds up to whole milliseconds, so an event can be up to one millisecond late.
            ready = self._poll.poll(timeout * 1000)
            self.late_s = max(self.late_s, self.now() - now - timeout)
            for fd, _ in ready:
                process = self._by_fd.get(fd)
                if process is not None:
                    self._read(process)
            now = self.now()
            if self._effects or now >= until:
                effects, self._effects = self._effects, []
                return protocol.StepResult(now, consumed, effects, None)

    def _read(self, process: _Process) -> None:
        try:
            process.connection.receive()
        except EOFError:
            self._lose(process, "host-died", self._host.how_it_ended(process.child, _EXIT_TIMEOUT_S))
        except (BadFrame, *protocol.MALFORMED) as exc:
            self._lose(process, "host-died", f"sent malformed data: {exc}")

    def _deliver(self, process: _Process, data: bytes) -> None:
        now = self.now()
        for effect in self._decode(data):
            if effect.server != process.server:
                raise BadFrame(f"a message that claims to come from {name_of(effect.server)}")
            if isinstance(effect, protocol.Threads):
                process.threads = effect.text
                continue
            if isinstance(effect, protocol.Fault):
                process.faulted = True
            self._effects.append((now, effect))

    def _lose(self, process: _Process, kind: str, what: str) -> None:
        """Report, once, that a server cannot continue, and end its process if it still exists."""
        self._end(process)
        if not process.faulted:
            text = f"{name_of(process.server)}: the process that runs your code {what}"
            self._effects.append((self.now(), protocol.Fault(process.server, kind, text)))


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection on loopback. Connections from other processes are rejected."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        while True:
            ours, peer = listener.accept()
            if peer == theirs.getsockname():
                return ours, theirs
            ours.close()
