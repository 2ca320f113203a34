"""The rpyc world: wall-clock time, one process for each server, every message over a TCP connection on
loopback.

A crash is a SIGKILL. The judge makes each connection itself and hands one end to the child it forks, so
nobody else can connect, and a host needs no access to the network."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

import msgspec

from raftlab.messages import protocol
from raftlab.messages.rpyc_connection import Broken, Line
from raftlab.worlds.host_process import WarmHost, cpu_seconds

# A child reads all the time, in a thread of its own, and the kernel takes megabytes for it meanwhile. One
# that has let nothing pass for this long (seconds) is stopped or stuck in C code; the judge does not wait for
# it any longer.
SEND_PATIENCE = 20.0

# How long a child may take to be gone after its connection has closed, in seconds.
_REAP_PATIENCE = 2.0


class _Link:
    """One running server as the judge sees it: a child process and the line to it."""

    __slots__ = ("child", "faulted", "fd", "line", "outgoing", "server")

    def __init__(self, server: int, child: int, fd: int, line: Line) -> None:
        self.server = server
        self.child = child
        self.fd = fd
        self.line = line
        self.outgoing: list[protocol.Event] = []
        self.faulted = False  # the child has named a fault itself, so its end is no news


class RpycWorld:
    """One run over a warm host. ``cpu_s`` are the CPU seconds of all servers that were ended, so far; ``late_s`` is the
    longest that the judge itself woke up later than it wanted to: the mark of a machine that has no time for us."""

    name = "rpyc"
    virtual = False

    def __init__(self, host: WarmHost) -> None:
        self.cpu_s = 0.0
        self.late_s = 0.0
        self._host = host
        self._began = time.monotonic()
        self._links: dict[int, _Link] = {}  # by server
        self._by_fd: dict[int, _Link] = {}
        self._poll = select.poll()
        self._effects: list[tuple[float, protocol.Effect]] = []
        self._decode = protocol.decoder(list[protocol.Effect]).decode

    def now(self) -> float:
        return time.monotonic() - self._began

    # --- servers ---

    def boot(self, boot: protocol.Boot) -> None:
        """Fork a process for the server and send it ``boot``. Returns within milliseconds.

        Raises :class:`~raftlab.worlds.base.HostLost` when the warm host is gone, ``ValueError`` if the server runs."""
        if boot.server in self._links:
            raise ValueError(f"S{boot.server} is running already")
        ours, theirs = _connected_pair()
        try:
            child = self._host.spawn("rpyc", [theirs.detach()], boot.seed)
        except BaseException:
            ours.close()
            raise
        ours.settimeout(SEND_PATIENCE)
        fd = ours.fileno()
        link = _Link(boot.server, child, fd, Line(ours, lambda data: self._deliver(link, data)))
        self._links[boot.server] = self._by_fd[fd] = link
        self._poll.register(fd, select.POLLIN)
        link.outgoing.append(boot)
        self._flush()

    def kill(self, server: int) -> None:
        """SIGKILL the server's process and wait until it is gone. Nothing of it is heard afterwards."""
        link = self._links.get(server)
        if link is not None:
            self._end(link)
        self._effects = [item for item in self._effects if item[1].server != server]

    def close(self) -> None:
        for link in list(self._links.values()):
            self._end(link)

    def _end(self, link: _Link) -> None:
        self.cpu_s += cpu_seconds(self._host.pid(link.child))  # first: a child ends when its line closes
        self._forget(link)
        self._host.kill(link.child)

    def _forget(self, link: _Link) -> None:
        self._poll.unregister(link.fd)
        del self._by_fd[link.fd], self._links[link.server]
        link.line.close()

    # --- events out ---

    def post(self, event: protocol.Event) -> None:
        """Send ``event``, at the latest when :meth:`wait` begins. For a server that is down it goes nowhere.

        Raises ``NotImplementedError`` for what only the simulator can do.
        """
        if isinstance(event, protocol.Pause | protocol.Resume | protocol.Rate | protocol.Reseed):
            what = type(event).__name__.lower()
            raise NotImplementedError(f"{what}: a real process cannot be treated so; the simulator can")
        if isinstance(event, protocol.Stop):
            self.kill(event.server)
            return
        link = self._links.get(event.server)
        if link is not None:
            link.outgoing.append(event)

    def _flush(self) -> None:
        for link in list(self._links.values()):
            if link.outgoing:
                events, link.outgoing = link.outgoing, []
                self._send(link, events)

    def _send(self, link: _Link, events: list[protocol.Event]) -> None:
        data = protocol.encode(events)
        if len(data) > protocol.MAX_FRAME_BYTES and len(events) > 1:
            half = len(events) // 2
            self._send(link, events[:half])
            self._send(link, events[half:])
            return
        try:
            link.line.tell(data)
        except TimeoutError:
            if link.server in self._links:
                self._lose(link, "host-hangs", f"has read nothing for {SEND_PATIENCE:.0f} s")
        except EOFError:
            pass  # its end, and what it said before, is still to be read

    # --- effects in ---

    def wait(self, until: float, due: Sequence[tuple[float, protocol.Event]]) -> protocol.Stepped:
        consumed, count = 0, len(due)
        while True:
            now = self.now()
            while consumed < count and due[consumed][0] <= now:
                self.post(due[consumed][1])
                consumed += 1
            self._flush()
            next_due = min(until, due[consumed][0]) if consumed < count else until
            patience = 0.0 if self._effects else max(0.0, next_due - now)
            # In whole milliseconds, rounded up: what is due within one may be that much late.
            ready = self._poll.poll(patience * 1000)
            self.late_s = max(self.late_s, self.now() - now - patience)
            for fd, _ in ready:
                link = self._by_fd.get(fd)
                if link is not None:
                    self._read(link)
            now = self.now()
            if self._effects or now >= until:
                effects, self._effects = self._effects, []
                return protocol.Stepped(now, consumed, effects, None)

    def _read(self, link: _Link) -> None:
        try:
            link.line.serve_some()
        except EOFError:
            self._lose(link, "host-died", self._host.ending(link.child, _REAP_PATIENCE))
        except (Broken, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            self._lose(link, "host-died", f"sent nonsense to the lab: {exc}")

    def _deliver(self, link: _Link, data: bytes) -> None:
        now = self.now()
        for effect in self._decode(data):
            if effect.server != link.server:
                raise Broken(f"something in the name of S{effect.server}")
            if isinstance(effect, protocol.Fault):
                link.faulted = True
            self._effects.append((now, effect))

    def _lose(self, link: _Link, kind: str, what: str) -> None:
        """The server cannot go on: end its process if there still is one, and say so once."""
        self._end(link)
        if not link.faulted:
            text = f"S{link.server}: the process that runs your code {what}"
            self._effects.append((self.now(), protocol.Fault(link.server, kind, text)))


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on loopback. Whoever else connects meanwhile is sent away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        while True:
            ours, peer = listener.accept()
            if peer == theirs.getsockname():
                return ours, theirs
            ours.close()
