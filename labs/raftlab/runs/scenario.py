"""A run as a text: what happens to a cluster, a command a line, and what it led to.

    raftlab scenario 1
    lab 2C
    name figure_8_in_steps
    seed 0
    servers 3

    leader a
    propose a 2
    crash a
    wait 0.5
    restart a
    check
    ----
    expected S0 to ...

``raftlab fuzz`` writes such texts, ``raftlab shrink`` makes them shorter, ``raftlab replay FILE`` runs one again. A
server is ``S2``, or a name that an earlier command gave to a leader (``a``), or the first, second, ... behind it
(``a+1``, ``a+2``), so that a text still means something when the seed, and with it the leader, is another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from raftlab import labs
from raftlab.harness import membership, message_filters
from raftlab.harness.event_loop import Hold
from raftlab.suites.marking import StartCluster

VERSION = 1
# Seconds that a healed cluster has to elect a leader, and then to have everybody apply a command. Calls into a cut that
# is healed by now come back after up to 7 s, and a correct Raft may wait for them; twice that, and some, is enough.
PATIENCE = 20.0
# How long a healed cluster rests before it is asked, so that nobody leads on from before.
REST = 0.5

_S = r"(?:S\d+|[a-z](?:\+\d+)?)"
_F = r"\d+(?:\.\d+)?"
_AMONG = rf"(?: among(?P<among>(?: {_S})+))?"
# Of each command, what may stand behind it.
_GRAMMAR = {
    "wait": rf"(?P<seconds>{_F})",
    "leader": rf"(?P<name>[a-z]){_AMONG}",
    "find": r"(?P<name>[a-z])",
    "no-leader": _AMONG.strip(),
    "same-term": _AMONG.strip(),
    "propose": rf"(?P<server>{_S})(?: (?P<count>\d+))?",
    "agree": rf"(?P<count>\d+){_AMONG}",
    "members": rf"(?P<server>{_S}) to (?P<members>{_S}(?: {_S})*)",
    "start": "",
    "crash": rf"(?P<server>{_S})",
    "restart": rf"(?P<server>{_S})",
    "pause": rf"(?P<server>{_S})",
    "resume": rf"(?P<server>{_S})",
    "clock": rf"(?P<server>{_S}) (?P<rate>{_F})",
    "crash-at": rf"(?P<server>{_S}) (?P<side>before|after) (?P<kind>save|send|answer|apply) (?P<nth>\d+)"
    r"(?: of (?P<method>\w+))?",
    "fail-saves": rf"(?P<server>{_S}) (?P<count>\d+)",
    "slow-service": rf"(?P<server>{_S}) (?P<seconds>{_F})",
    "disconnect": rf"(?P<server>{_S})",
    "connect": rf"(?P<server>{_S})",
    "cut": rf"(?P<src>{_S}) (?P<dst>{_S})",
    "mend": rf"(?P<src>{_S}) (?P<dst>{_S})",
    "partition": rf"(?P<groups>{_S}(?: (?:{_S}|\|))*)",
    "heal": "",
    "unreliable": rf"(?P<changes>\w+={_F}(?: \w+={_F})*)?",
    "reliable": "",
    "snapshots": r"(?P<every>\d+)(?: (?P<size>\d+))?",
    "hold": rf"(?P<name>\w+) (?P<leg>requests|replies)(?: of (?P<method>\w+))?(?: from (?P<src>{_S}))?"
    rf"(?: to (?P<dst>{_S}))?(?: carrying (?P<what>{'|'.join(message_filters.WHATS)}))?(?: most (?P<most>\d+))?",
    "release": r"(?P<name>\w+)",
    "drop": r"(?P<name>\w+)",
    "check": "",
}
# A server, anywhere in a line.
_REFERENCE = re.compile(r"(?<!\S)(?P<name>[a-z]|S\d+)(?:\+(?P<behind>\d+))?(?!\S)")
_PATTERNS = {name: re.compile(pattern) for name, pattern in _GRAMMAR.items()}
_HEAD = ("lab", "name", "seed", "servers", "preempt", "started", "members")
_CHANGES = ("lose_request", "lose_reply", "duplicate", "reorder_reply", "echo")


class BadScenario(ValueError):
    """A text that is no scenario. The message says which line, and what was expected."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command and the rest of its line."""

    command: str
    rest: str = ""

    def __str__(self) -> str:
        return f"{self.command} {self.rest}".strip()

    def parts(self) -> dict[str, str]:
        found = _PATTERNS[self.command].fullmatch(self.rest)
        assert found is not None
        return {name: text for name, text in found.groupdict().items() if text is not None}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run to be made. ``expected`` are the lines that the run is known to end with."""

    lab: str
    name: str
    seed: int
    servers: int
    steps: tuple[Step, ...] = ()
    preempt: bool = True
    started: bool = True
    """Whether all servers run from the beginning; else the command ``start`` starts them."""
    members: int = 0
    """How many of the servers, from S0 on, are members at first (lab 2E); 0: all."""
    expected: tuple[str, ...] = field(default=(), compare=False)

    def text(self) -> str:
        head = [f"raftlab scenario {VERSION}", f"lab {self.lab}", f"name {self.name}", f"seed {self.seed}"]
        head += [f"servers {self.servers}"]
        head += [] if self.preempt else ["preempt off"]
        head += [] if self.started else ["started off"]
        head += [f"members {self.members}"] if self.members else []
        tail = ["----", *self.expected] if self.expected else []
        return "\n".join([*head, "", *map(str, self.steps), *tail]) + "\n"

    def with_steps(self, steps: Iterable[Step]) -> Scenario:
        return replace(self, steps=tuple(steps))


def step(line: str) -> Step:
    """One line. Raises :class:`BadScenario`."""
    command, _, rest = " ".join(line.split()).partition(" ")
    if command not in _PATTERNS:
        raise BadScenario(f"there is no command {command!r}; the commands are {', '.join(_PATTERNS)}")
    found = _PATTERNS[command].fullmatch(rest)
    if found is None:
        raise BadScenario(f"{command!r} does not go with {rest!r}")
    if changes := found.groupdict().get("changes"):
        for name in (change.partition("=")[0] for change in changes.split()):
            if name not in _CHANGES:
                raise BadScenario(f"{name!r} is no condition; these are: {', '.join(_CHANGES)}")
    return Step(command, rest)


def parse(text: str) -> Scenario:
    """A scenario's text. Raises :class:`BadScenario`."""
    lines = text.splitlines()
    end = lines.index("----") if "----" in lines else len(lines)
    lines, expected = lines[:end], lines[end + 1 :]
    if not lines or lines[0].split()[:2] != ["raftlab", "scenario"]:
        raise BadScenario(f"a scenario begins with the line 'raftlab scenario {VERSION}'")
    if lines[0].split()[2:] != [str(VERSION)]:
        raise BadScenario(f"it begins with {lines[0]!r}; this raftlab reads version {VERSION}")
    head: dict[str, str] = {}
    steps: list[Step] = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split("#")[0].split()
        if not words:
            continue
        if not steps and words[0] in _HEAD and (words[0] != "members" or len(words) == 2):
            head[words[0]] = " ".join(words[1:])
            continue
        try:
            steps.append(step(" ".join(words)))
        except BadScenario as exc:
            raise BadScenario(f"line {number}: {exc}") from None
    for wanted in ("lab", "seed", "servers"):
        if wanted not in head:
            raise BadScenario(f"the line '{wanted} ...' is missing at its top")
    seed, servers, members = head["seed"], head["servers"], head.get("members", "0")
    if not all(number.isascii() and number.isdigit() for number in (seed, servers, members)) or not (
        1 <= int(servers) <= 25 and int(members) <= int(servers)
    ):
        raise BadScenario("the seed is a whole number from 0 on, servers one from 1 to 25, members at most as many")
    return Scenario(
        head["lab"].upper(), head.get("name", "scenario"), int(seed), int(servers), tuple(steps),
        head.get("preempt") != "off", head.get("started") != "off", int(members), tuple(expected),
    )  # fmt: skip


def tidy(told: Scenario) -> Scenario:
    """The same run, in clean words: leaders are called a, b, ... in their order, and a name that nobody has been given
    (it means S0) is written so."""
    names: dict[str, str] = {}
    steps = []

    def clean(found: re.Match[str]) -> str:
        name, behind = found["name"], int(found["behind"] or 0) % told.servers
        if name[0] == "S":
            return f"S{int(name[1:]) % told.servers}"
        if name in names:
            return f"{names[name]}+{behind}" if behind else names[name]
        return f"S{behind}"

    for each in told.steps:
        rest = each.rest
        if each.command == "partition":
            rest = _tidy_groups(_REFERENCE.sub(clean, rest))
        elif each.command in ("leader", "find"):
            name, _, among = rest.partition(" ")
            among = _REFERENCE.sub(clean, among)
            names[name] = "abcdefghijklmnopqrstuvwxyz"[len(names) % 26] if name not in names else names[name]
            rest = f"{names[name]} {among}".strip()
        else:
            rest = _REFERENCE.sub(clean, rest)
        steps.append(Step(each.command, rest))
    return told.with_steps(steps)


def _tidy_groups(text: str) -> str:
    """A server is in the last group that names it, as far as the network is concerned."""
    home: dict[str, int] = {}
    for number, group in enumerate(text.split("|")):
        home.update(dict.fromkeys(group.split(), number))
    groups: dict[int, list[str]] = {}
    for server, number in home.items():
        groups.setdefault(number, []).append(server)
    return " | ".join(" ".join(group) for group in groups.values())


def play(scenario: Scenario, begin: StartCluster) -> int:
    """Make the run. Returns how many of the steps were begun when all went well; what goes wrong is raised as
    :class:`~raftlab.explain.failure.LabFailure`."""
    return ScenarioPlayer(scenario).play(begin)


class ScenarioPlayer:
    """A scenario while it is played. ``begun`` counts the steps that were begun."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._names: dict[str, int] = {}
        self._holds: dict[str, Hold] = {}
        self._commands = 0
        # What `check` has to undo: commands that make a server slow, fast, or likely to fail, with what undoes each.
        self._undo: dict[tuple[str, int], Callable[[int], None]] = {}
        self.begun = 0

    def play(self, begin: StartCluster) -> int:
        """Make the run; see :func:`play`."""
        scenario = self._scenario
        members = range(scenario.members) if scenario.members else None
        self.c = begin(scenario.servers, start=scenario.started, members=members)
        for each in scenario.steps:
            self.begun += 1
            do: Callable[..., None] = getattr(self, "_" + each.command.replace("-", "_"))
            do(**each.parts())
        return self.begun

    def server(self, text: str) -> int:
        """The server that ``text`` speaks of. A name that nobody has been given is S0's: a shortened text stays one."""
        name, _, behind = text.partition("+")
        number = int(name[1:]) if name[0] == "S" else self._names.get(name, 0)
        return (number + int(behind or 0)) % self.c.size

    def _among(self, text: str) -> list[int] | None:
        return [self.server(each) for each in text.split()] or None

    def _command(self) -> str:
        self._commands += 1
        return f"x{self._commands}"

    def _wait(self, seconds: str) -> None:
        self.c.sleep(float(seconds))

    def _leader(self, name: str, among: str = "") -> None:
        self._names[name] = self.c.one_leader(self._among(among))

    def _find(self, name: str) -> None:
        leader = self.c.leader_now()
        if leader is not None:
            self._names[name] = leader

    def _no_leader(self, among: str = "") -> None:
        self.c.no_leader(self._among(among))

    def _same_term(self, among: str = "") -> None:
        self.c.agreed_term(self._among(among))

    def _propose(self, server: str, count: str = "1") -> None:
        self.c.propose_together(self.server(server), [self._command() for _ in range(int(count))])

    def _agree(self, count: str, among: str = "") -> None:
        self.c.agree(self._command(), int(count), among=self._among(among))

    def _members(self, server: str, members: str) -> None:
        if self.c.server_state(self.server(server)).running:
            self.c.ask_members(self.server(server), set(self._among(members) or ()))

    def _start(self) -> None:
        self.c.start_all()

    def _crash(self, server: str) -> None:
        self.c.crash(self.server(server))

    def _restart(self, server: str) -> None:
        self.c.restart(self.server(server))

    def _done_to(self, server: str, what: str, undo: Callable[[int], None]) -> int:
        number = self.server(server)
        self._undo[what, number] = undo
        return number

    def _pause(self, server: str) -> None:
        if self.c.server_state(self.server(server)).up:
            self.c.pause(self._done_to(server, "pause", self.c.resume))

    def _resume(self, server: str) -> None:
        self.c.resume(self.server(server))

    def _clock(self, server: str, rate: str) -> None:
        number = self._done_to(server, "clock", lambda each: self.c.clock_rate(each, 1.0))
        self.c.clock_rate(number, float(rate))

    def _crash_at(self, server: str, side: str, kind: str, nth: str, method: str = "") -> None:
        number = self._done_to(server, "crash-at", lambda each: self.c.crash_at(each, "save", nth=0))
        self.c.crash_at(number, kind, int(nth), side, method)

    def _fail_saves(self, server: str, count: str) -> None:
        number = self._done_to(server, "fail-saves", lambda each: self.c.fail_saves(each, 0))
        self.c.fail_saves(number, int(count))

    def _slow_service(self, server: str, seconds: str) -> None:
        number = self._done_to(server, "slow-service", lambda each: self.c.slow_service(each, 0.0))
        self.c.slow_service(number, float(seconds))

    def _disconnect(self, server: str) -> None:
        self.c.disconnect(self.server(server))

    def _connect(self, server: str) -> None:
        self.c.connect(self.server(server))

    def _cut(self, src: str, dst: str) -> None:
        self.c.cut(self.server(src), self.server(dst))

    def _mend(self, src: str, dst: str) -> None:
        self.c.mend(self.server(src), self.server(dst))

    def _partition(self, groups: str) -> None:
        self.c.partition(*[[self.server(each) for each in group.split()] for group in groups.split("|")])

    def _heal(self) -> None:
        self.c.heal()

    def _unreliable(self, changes: str = "") -> None:
        pairs = (change.split("=") for change in changes.split())
        self.c.unreliable(True, **{name: float(value) for name, value in pairs})

    def _reliable(self) -> None:
        self.c.unreliable(on=False)

    def _snapshots(self, every: str, size: str = "0") -> None:
        self.c.take_snapshots(int(every), int(size))

    def _hold(
        self, name: str, leg: str, method: str = "", src: str = "", dst: str = "", what: str = "", most: str = ""
    ) -> None:
        self._holds[name] = self.c.hold(
            method,
            self.server(src) if src else None,
            self.server(dst) if dst else None,
            {"requests": "request", "replies": "reply"}[leg],
            message_filters.WHATS[what] if what else None,
            int(most) if most else None,
        )

    def _release(self, name: str) -> None:
        if name in self._holds:
            self._holds[name].release()

    def _drop(self, name: str) -> None:
        if name in self._holds:
            self._holds[name].drop()

    def _check(self) -> None:
        """Mend everything; then there must soon be a leader, and from lab 2B on everybody must apply a new command."""
        c = self.c
        for hold in self._holds.values():
            hold.release()
        c.heal()
        c.unreliable(on=False)
        for (_, server), undo in self._undo.items():
            undo(server)
        for rest in (REST, 0.0):  # a save that failed at the very end has taken its server down a moment later
            for server in c.everybody:
                if not c.server_state(server).up:
                    c.restart(server)
            c.sleep(rest)
        c.one_leader(within=PATIENCE)
        lab = labs.find(self._scenario.lab)
        if not lab.has("log"):
            return
        if not lab.has("membership"):
            c.agree(self._command(), len(c.everybody), within=PATIENCE)
        else:
            membership.agree_by(c, self._command(), within=PATIENCE)
