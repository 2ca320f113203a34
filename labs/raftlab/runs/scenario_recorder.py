"""The tape recorder: a cluster that writes down what a test's script does to it, as a scenario.

``raftlab shrink`` needs a failing test as a list of commands that can be taken out one by one. What a script decides by
itself (a random number, an ``if``) is on the tape as what it came to; what it merely looks at leaves no trace but the time
that passed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

from raftlab.harness import message_filters
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.event_loop import Hold
from raftlab.runs.scenario import Scenario, Step

_NAMES = "abcdefghijklmnopqrstuvwxyz"
# A script that failed while it waited gets this much longer on the tape, so that the failure is still reached.
_MARGIN = 0.5


class ScenarioRecorder(Cluster):
    """A cluster with a tape. ``cannot`` says why the tape does not tell the whole story; empty: it does."""

    def __init__(
        self, world: Any, lab: str, seed: int, servers: int, scripted: Collection[int] = (),
        members: Collection[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(world, lab, seed, servers, scripted, members)
        self.steps: list[Step] = []
        self.started = False
        self.cannot = "the test plays servers itself" if scripted else ""
        self._deep = False
        self._lead: tuple[str, int] | None = None  # the latest leader that was given a name
        self._named = 0
        self._said: dict[int, str] = {}
        self._held = 0
        self._rest = 0.0  # time that passed since the last command

    def scenario(self, lab: str, name: str, seed: int, preempt: bool) -> Scenario:
        """What is on the tape."""
        self._flush(_MARGIN)
        return Scenario(lab, name, seed, self.size, tuple(self.steps), preempt, self.started)

    # --- writing ---

    def ref(self, server: int) -> str:
        """What the tape calls a server: by the leader it was, or by how far behind the latest leader it sits."""
        if server not in self._said:
            if self._lead is None:
                return f"S{server}"
            name, number = self._lead
            self._said[server] = f"{name}+{(server - number) % self.size}"
        return self._said[server]

    def bind(self, server: int, name: str) -> None:
        """From now on a leader is called ``name``."""
        self._lead = (name, server)
        self._said[server] = name

    def next_name(self) -> str:
        """A name that no leader has had for long."""
        self._named += 1
        return _NAMES[(self._named - 1) % len(_NAMES)]

    def write(self, command: str, *words: object) -> None:
        self._flush()
        self.steps.append(Step(command, " ".join(str(word) for word in words if word != "")))

    def _flush(self, more: float = 0.0) -> None:
        rest, self._rest = round(self._rest + more, 4), 0.0
        if rest > 0:
            self.steps.append(Step("wait", f"{rest:.4f}".rstrip("0").rstrip(".")))

    def among(self, servers: Collection[int] | None) -> str:
        return "" if servers is None else "among " + " ".join(map(self.ref, sorted(servers)))

    def outermost(self, call: Callable[[], Any], timed: bool) -> Any:
        """Make a call; what it calls on this cluster stays off the tape. ``timed``: the time it takes is written."""
        if self._deep:
            return call()
        self._deep = True
        before = self.now
        try:
            return call()
        finally:
            self._deep = False
            if timed:
                self._rest += self.now - before

    @property
    def deep(self) -> bool:
        return self._deep

    # --- what needs more than a line ---

    def start_all(self) -> None:
        if not self._deep and not self.steps and self._rest == 0:
            self.started = True
        elif not self._deep:
            self.write("start")
        self.outermost(super().start_all, timed=False)

    def one_leader(self, among: Collection[int] | None = None, within: float = ELECTION_LIMIT) -> int:
        return self._found(lambda: super(ScenarioRecorder, self).one_leader(among, within), among)

    def settled_leader(self, within: float = ELECTION_LIMIT + 2.0) -> int:
        return self._found(lambda: super(ScenarioRecorder, self).settled_leader(within), None)

    def _found(self, ask: Callable[[], int], among: Collection[int] | None) -> int:
        deep = self._deep
        if not deep:
            name = self.next_name()
            self.write("leader", name, self.among(among))
        leader: int = self.outermost(ask, timed=False)
        if not deep:
            self.bind(leader, name)
        return leader

    def leader_now(self, among: Collection[int] | None = None) -> int | None:
        deep = self._deep
        leader: int | None = self.outermost(lambda: super(ScenarioRecorder, self).leader_now(among), timed=True)
        if leader is not None and not deep and (self._lead is None or self._lead[1] != leader):
            name = self.next_name()
            self.write("find", name)
            self.bind(leader, name)
        return leader

    def propose_together(self, server: int, commands: Iterable[Any]) -> list[tuple[int, int, bool]]:
        commands = list(commands)
        if not self._deep:
            self.write("propose", self.ref(server), len(commands) if len(commands) > 1 else "")
        taken: list[tuple[int, int, bool]] = self.outermost(
            lambda: super(ScenarioRecorder, self).propose_together(server, commands), timed=False
        )
        return taken

    def propose(self, server: int, command: Any) -> tuple[int, int, bool]:
        return self.propose_together(server, [command])[0]

    def ask_members(self, server: int, members: Collection[int]) -> int:
        if not self._deep:
            self.write("members", f"{self.ref(server)} to", *map(self.ref, sorted(members)))
        return super().ask_members(server, members)

    def partition(self, *groups: Iterable[int]) -> None:
        named = [list(group) for group in groups]
        if not self._deep:
            self.write("partition", " | ".join(" ".join(map(self.ref, group)) for group in named))
        super().partition(*named)

    def unreliable(self, on: bool = True, **changes: Any) -> None:
        if not self._deep:
            shown = " ".join(f"{name}={value:.4g}" for name, value in changes.items())
            self.write("unreliable" if on else "reliable", shown)
        super().unreliable(on, **changes)

    def hold(
        self, method: str = "", src: int | None = None, dst: int | None = None, leg: str = "request",
        when: Callable[..., bool] | None = None, most: int | None = None,
    ) -> Hold:  # fmt: skip
        what = next((name for name, each in message_filters.WHATS.items() if each is when), "")
        if when is not None and not what:
            self.cannot = "the test picks messages in a way that has no name"
        self._held += 1
        name = f"h{self._held}"
        picked = [f"of {method}"] if method else []
        picked += [f"from {self.ref(src)}"] if src is not None else []
        picked += [f"to {self.ref(dst)}"] if dst is not None else []
        picked += [f"carrying {what}"] if what else []
        picked += [f"most {most}"] if most is not None else []
        self.write("hold", name, {"request": "requests", "reply": "replies"}[leg], *picked)
        hold = super().hold(method, src, dst, leg, when, most)
        for command in ("release", "drop"):
            setattr(hold, command, self._noted(command, name, getattr(hold, command)))
        return hold

    def _noted(self, command: str, name: str, call: Callable[[], None]) -> Callable[[], None]:
        def noted() -> None:
            self.write(command, name)
            call()

        return noted


# Methods that are one command each: what the rest of its line is.
_LINES: dict[str, tuple[str, Callable[..., str]]] = {
    **{
        name: (name, lambda c, server: c.ref(server))
        for name in ("crash", "restart", "pause", "resume", "disconnect", "connect")
    },
    "cut": ("cut", lambda c, src, dst: f"{c.ref(src)} {c.ref(dst)}"),
    "mend": ("mend", lambda c, src, dst: f"{c.ref(src)} {c.ref(dst)}"),
    "heal": ("heal", lambda c: ""),
    "clock_rate": ("clock", lambda c, server, rate: f"{c.ref(server)} {rate}"),
    "slow_service": ("slow-service", lambda c, server, seconds: f"{c.ref(server)} {seconds}"),
    "fail_saves": ("fail-saves", lambda c, server, count=1: f"{c.ref(server)} {count}"),
    "crash_at": (
        "crash-at",
        lambda c, server, kind, nth=1, side="before", method="": (
            f"{c.ref(server)} {side} {kind} {nth}" + (f" of {method}" if method else "")
        ),
    ),
    "take_snapshots": ("snapshots", lambda c, every=10, size=0: f"{every} {size}"),
    "no_leader": ("no-leader", lambda c, among=None: c.among(among)),
    "agreed_term": ("same-term", lambda c, among=None, within=0.0: c.among(among)),
    "agree": (
        "agree",
        lambda c, command, servers, retry=True, within=0.0, among=None: f"{servers} {c.among(among)}".strip(),
    ),
}


def _line(name: str, command: str, rest: Callable[..., str]) -> Callable[..., Any]:
    plain = getattr(Cluster, name)

    @functools.wraps(plain)
    def method(self: ScenarioRecorder, *args: Any, **named: Any) -> Any:
        if not self.deep:
            self.write(command, rest(self, *args, **named))
        return self.outermost(lambda: plain(self, *args, **named), timed=False)

    return method


def _wait(name: str) -> Callable[..., Any]:
    plain = getattr(Cluster, name)

    @functools.wraps(plain)
    def method(self: ScenarioRecorder, *args: Any, **named: Any) -> Any:
        return self.outermost(lambda: plain(self, *args, **named), timed=True)

    return method


for _name, (_command, _rest) in _LINES.items():
    setattr(ScenarioRecorder, _name, _line(_name, _command, _rest))
for _name in ("sleep", "wait_for", "states", "reply_to", "call_snapshot"):
    setattr(ScenarioRecorder, _name, _wait(_name))
