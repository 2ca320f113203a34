"""A minimal event loop for tests of the rpyc world: it delivers every message at once and has no referee."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlab.messages import codec, protocol
from raftlab.worlds.rpyc_world import RpycWorld

# Seconds after which a test gives up. Everything in these tests takes far less, so only a hang lasts so long.
PATIENCE = 60.0


class TinyEventLoop:
    """Delivers requests and replies between the servers of ``world``. Other effects are kept in ``seen``."""

    def __init__(self, world: RpycWorld, servers: int) -> None:
        self.world = world
        self.servers = servers
        self.seen: list[protocol.Effect] = []
        self.stored: dict[int, tuple[bytes, bytes]] = {}
        self.ready: set[int] = set()
        self._incarnation = 0
        self._callers: dict[int, tuple[int, int]] = {}  # by judge_rpc: the caller and its caller_rpc
        self._results: dict[int, bytes] = {}
        self._last = 0

    def boot(self, *servers: int) -> None:
        """Start ``servers`` (default: all) with what they saved, and wait until they are ready."""
        wanted = servers or tuple(range(self.servers))
        self._incarnation += 1
        for server in wanted:
            state, snapshot = self.stored.get(server, (b"", b""))
            members = list(range(self.servers))
            self.world.boot(protocol.Boot(server, self._incarnation, self.servers, members, state, snapshot, 1))
        self.run(lambda: self.ready.issuperset(wanted))

    def kill(self, server: int) -> None:
        self.world.kill(server)
        self.ready.discard(server)

    def begin_call(self, server: int, method: str, *args: Any) -> int:
        self._last += 1
        self.world.send_event(protocol.Call(server, self._last, method, codec.encode_value(list(args))))
        return self._last

    def call(self, server: int, *command: Any) -> Any:
        """The result of ``start(command)`` on ``server``."""
        number = self.begin_call(server, "start", list(command))
        self.run(lambda: number in self._results)
        return codec.decode_value(self._results.pop(number))

    def result(self, number: int) -> Any:
        """The result of the call with this number; ``None`` if it has not returned yet."""
        data = self._results.get(number)
        return None if data is None else codec.decode_value(data)

    def run(self, done: Callable[[], bool]) -> None:
        """Let the servers run until ``done()``."""
        deadline = self.world.now() + PATIENCE
        while not done():
            assert self.world.now() < deadline, f"timed out; other effects: {self.seen[-5:]}"
            for _, effect in self.world.wait(deadline, []).effects:
                self._handle(effect)

    def in_flight(self) -> int:
        """How many requests have been handed over and not answered."""
        return len(self._callers)

    def fault(self) -> protocol.Fault:
        """Wait for the first fault, and return it."""
        self.run(lambda: bool(self.faults()))
        return self.faults()[0]

    def faults(self) -> list[protocol.Fault]:
        return [effect for effect in self.seen if isinstance(effect, protocol.Fault)]

    def lines(self) -> list[tuple[int, str, str]]:
        return [
            (effect.server, effect.topic, effect.text) for effect in self.seen if isinstance(effect, protocol.LogLine)
        ]

    def _handle(self, effect: protocol.Effect) -> None:
        match effect:
            case protocol.Send():
                self._last += 1
                self._callers[self._last] = (effect.server, effect.caller_rpc)
                self.world.send_event(protocol.Request(effect.target, self._last, effect.method, effect.payload))
            case protocol.Answer():
                server, caller_rpc = self._callers.pop(effect.judge_rpc)
                self.world.send_event(protocol.Reply(server, caller_rpc, effect.payload))
            case protocol.Result():
                self._results[effect.call] = effect.payload
            case protocol.Save():
                _, snapshot = self.stored.get(effect.server, (b"", b""))
                self.stored[effect.server] = (effect.state, effect.snapshot or snapshot)
            case protocol.Append():
                state, snapshot = self.stored.get(effect.server, (b"", b""))
                self.stored[effect.server] = (state + effect.data, snapshot)
            case protocol.Ready():
                self.ready.add(effect.server)
            case _:
                self.seen.append(effect)
