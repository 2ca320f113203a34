"""The commands of scenarios, one class each: how a command is written, run, recorded and simplified.

To add a command, write one subclass of :class:`Command` and one transcript in ``tests/scenarios``:

- ``syntax`` is its line. Parsing and writing follow from it, and each ``{field:kind}`` in it is a field of the class.
- ``run`` does to a cluster what the line says.
- ``records`` names the methods of :class:`~raftlab.harness.cluster.Cluster` whose calls are recorded as this command,
  and ``record`` records such a call. Both are needed only if a suite can do what the command does.
- ``simpler`` returns simpler commands to try in place of this one while a failing scenario is shrunk.
- ``merged``, ``tidied`` and ``validate`` have defaults that suit nearly every command.

Fields hold the words of the line as they were written (``"0.250"``), so a text that is read and written again is
unchanged. An optional field that is left out is ``""``. A server is written as ``S2``, as a leader's name (``a``), or
as the number of places after a leader (``a+1``). A clerk is written as ``C0``. In partitions, cuts and holds, a clerk
may replace a server; and clerks crash and restart like servers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, Self, dataclass_transform

from raftlab import labs
from raftlab.harness import event_loop, membership, message_filters
from raftlab.harness.clerks import READS, ClerkHandle
from raftlab.harness.cluster import Cluster
from raftlab.participants import is_clerk, name_of
from raftlab.suites.helpers.clients import ALL_READS, APPENDS, EVERYTHING, FRESH_READS

# Seconds of the lab's time that a healed cluster has to elect a leader, and then to apply a command everywhere. A call
# made while a link was cut can take 7 s to fail, even after the link is restored, and a correct Raft may wait for the
# call. This is nearly three times those 7 s.
PATIENCE = 20.0
# Seconds for which a healed cluster is left alone before it is asked for its leader, so that an old leader has time to
# step down.
REST = 0.5

LEADER_NAMES = "abcdefghijklmnopqrstuvwxyz"

_SERVER = r"(?:[SC]\d+|[a-z](?:\+\d+)?)"
_NUMBER = r"\d+(?:\.\d+)?"
OPERATIONS = ("get", "put", "append", "swap")
# The kinds of operations from which busy clerks draw, by the name that a scenario uses.
MIXES = {
    "appends": APPENDS, "everything": EVERYTHING,
    "reads": ALL_READS, "fresh-reads": FRESH_READS, "everything-and-reads": (*EVERYTHING, *READS),
}  # fmt: skip
NO_VALUE = "-"  # stands for None, as the expected value of a swap

# The syntax of a field of each kind. Any other kind lists its own words: "before|after".
_KINDS = {
    "server": _SERVER,
    "servers": rf"{_SERVER}(?: {_SERVER})*",
    "groups": rf"{_SERVER}(?: (?:{_SERVER}|\|))*",
    "leader": "[a-z]",
    "clerk": r"C\d+",
    "clerks": r"C\d+(?: C\d+)*",
    "operation": "|".join(OPERATIONS),
    "value": r"(?!read=)\S+",
    "words": r"\w+(?: \w+)*",
    "mix": "|".join(MIXES),
    "number": _NUMBER,
    "count": r"\d+",
    "word": r"\w+",
    "filter": "|".join(map(re.escape, message_filters.FILTERS)),
    "conditions": rf"\w+={_NUMBER}(?: \w+={_NUMBER})*",
}
_FIELD = re.compile(r"\{(?P<name>\w+):(?P<kind>[^}]+)\}")
_OPTIONAL = re.compile(r"\[([^]]*)\]")
_CONDITIONS = ("lose_request", "lose_reply", "duplicate", "reorder_reply", "echo")


class BadScenario(ValueError):
    """A text that is not a scenario. The message says which line is wrong, and what was expected."""


# --- the arguments of commands ---


class Playback:
    """A scenario while it is played: its cluster, and the data that its commands share.

    Attributes:
        cluster: The cluster on which the commands act.
        lab: The scenario's lab.
        leaders: The server that each leader's name stands for.
        holds: The holds by name.
    """

    def __init__(self, cluster: Cluster, lab: labs.Lab) -> None:
        self.cluster = cluster
        self.lab = lab
        self.leaders: dict[str, int] = {}
        self.holds: dict[str, event_loop.Hold] = {}
        self._proposals = 0
        self._undo: dict[tuple[str, int], Callable[[int], None]] = {}

    def server(self, text: str) -> int:
        """The number of the server or clerk that ``text`` names. A leader's name that no command has given stands for
        S0. So a scenario still runs after the command that gives the name has been removed."""
        name, _, places = text.partition("+")
        if name[0] == "C":
            return self.clerk(name).number
        number = int(name[1:]) if name[0] == "S" else self.leaders.get(name, 0)
        return (number + int(places or 0)) % self.cluster.size

    def clerk(self, text: str) -> ClerkHandle:
        """The clerk that ``text`` names. Raises :class:`BadScenario` if there is none."""
        clerks = self.cluster.clerks
        if not clerks:
            raise BadScenario(f"there is no {text}: the line 'clerks 1' is missing at the top")
        return clerks[int(text[1:]) % len(clerks)]

    def require_reads(self, command: Command, needed: bool) -> None:
        """If ``needed``, raise :class:`BadScenario` unless the lab has reads that add no entry to the log (lab 3B)."""
        if needed and not self.lab.has("reads"):
            raise BadScenario(f"'{command}' needs lab 3B, but this is a scenario of lab {self.lab.name}")

    def servers(self, text: str) -> list[int]:
        return [self.server(each) for each in text.split()]

    def among(self, text: str) -> list[int] | None:
        """The servers that ``text`` names; ``None`` if it names none, which means all connected servers."""
        return self.servers(text) or None

    def next_proposal(self) -> str:
        """A new command for the replicated log: ``x1``, ``x2``, ..."""
        self._proposals += 1
        return f"x{self._proposals}"

    def undo_at_check(self, command: Command, server: int, undo: Callable[[int], None]) -> int:
        """Have the ``check`` command begin by undoing ``command`` on ``server``. Returns ``server``."""
        self._undo[command.name, server] = undo
        return server

    def undo_all(self) -> None:
        for (_, server), undo in self._undo.items():
            undo(server)


class Recording:
    """The recording of a test: its commands so far, and the names that it gave to leaders and holds.

    Attributes:
        commands: The commands so far.
        started: Whether the test started all servers at its beginning.
        cannot: Why the recording is incomplete; empty if it is complete.
        nested: Whether a recorded method is running. Calls from inside it are not recorded.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.commands: list[Command] = []
        self.started = False
        self.cannot = ""
        self.nested = False
        self._cluster = cluster
        self._leader: tuple[str, int] | None = None  # the latest leader that was given a name
        self._leader_names = 0
        self._references: dict[int, str] = {}
        self._holds = 0
        self._waited = 0.0  # seconds since the last command

    @property
    def empty(self) -> bool:
        """Whether nothing has happened yet and no time has passed."""
        return not self.commands and self._waited == 0

    def reference(self, server: int) -> str:
        """The scenario's name for a server or clerk. A server that was named as a leader keeps that name, such as ``a``.
        Any other server is named by its distance from the latest leader, such as ``a+1``."""
        if is_clerk(server):
            return name_of(server)
        if server not in self._references:
            if self._leader is None:
                return f"S{server}"
            name, number = self._leader
            self._references[server] = f"{name}+{(server - number) % self._cluster.size}"
        return self._references[server]

    def references(self, servers: Iterable[int] | None) -> str:
        return "" if servers is None else " ".join(map(self.reference, servers))

    def among(self, servers: Collection[int] | None) -> str:
        return self.references(None if servers is None else sorted(servers))

    def write(self, command: Command) -> None:
        """Add a command, after a ``wait`` for the time that has passed since the previous one."""
        self.write_wait()
        self.commands.append(command)

    def write_wait(self, margin: float = 0.0) -> None:
        """Add a ``wait`` for the time that has passed since the last command, and ``margin`` seconds more."""
        seconds, self._waited = round(self._waited + margin, 4), 0.0
        if seconds > 0:
            self.commands.append(Wait(f"{seconds:.4f}".rstrip("0").rstrip(".")))

    def run(self, call: Callable[[], Any], timed: bool) -> Any:
        """Make ``call`` without recording the calls from inside it. If ``timed``, its duration is recorded as a
        ``wait``. Otherwise the command itself takes that time when it is played."""
        before = self._cluster.now
        self.nested = True
        try:
            return call()
        finally:
            self.nested = False
            if timed:
                self._waited += self._cluster.now - before

    @property
    def leader(self) -> int | None:
        """The latest leader that was given a name."""
        return None if self._leader is None else self._leader[1]

    def next_leader_name(self) -> str:
        """A name that was not recently given to a leader."""
        self._leader_names += 1
        return LEADER_NAMES[(self._leader_names - 1) % len(LEADER_NAMES)]

    def name_leader(self, server: int, name: str) -> None:
        self._leader = (name, server)
        self._references[server] = name

    def next_hold_name(self) -> str:
        self._holds += 1
        return f"h{self._holds}"


class RecordedCall:
    """A call that a test makes to its cluster. A command's ``record`` method records the call, then makes it.
    ``call["server"]`` is the argument ``server``. ``record`` may replace an argument before it makes the call."""

    def __init__(self, recording: Recording, arguments: dict[str, Any], make: Callable[[], Any]) -> None:
        self._recording = recording
        self._arguments = arguments
        self._make = make

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._arguments[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    def make(self, timed: bool = False) -> Any:
        """Make the call and return its result. For ``timed``, see :meth:`Recording.run`."""
        return self._recording.run(self._make, timed)


class TidyNames:
    """New names for the leaders of a scenario with ``servers`` servers: a, b, ... in the order in which commands name
    them."""

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._names: dict[str, str] = {}

    def define(self, name: str) -> str:
        """The new name for ``name``, which a command is giving to a leader."""
        return self._names.setdefault(name, LEADER_NAMES[len(self._names) % len(LEADER_NAMES)])

    def server(self, text: str) -> str:
        """A server's new name. A leader's name that no command has given stands for S0."""
        name, _, places = text.partition("+")
        if name[0] == "C":
            return name
        behind = int(places or 0) % self._servers
        if name[0] == "S":
            return f"S{int(name[1:]) % self._servers}"
        if name in self._names:
            return f"{self._names[name]}+{behind}" if behind else self._names[name]
        return f"S{behind}"


# --- the base class ---

COMMANDS: dict[str, type[Command]] = {}
"""Every command by its name. A subclass of :class:`Command` that has a ``syntax`` is added when it is defined."""


@dataclass_transform(frozen_default=True)
class Command:
    """One line of a scenario. Subclasses become frozen dataclasses.

    Attributes:
        syntax: The whole line: its words, ``{field:kind}`` for a field, and ``[...]`` around what may be left out.
        records: The methods of the cluster whose calls are recorded as this command.
        name: The first word of the line.
    """

    syntax: ClassVar[str]
    records: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str]
    _pattern: ClassVar[re.Pattern[str]]
    _field_kinds: ClassVar[dict[str, str]]

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True)(cls)
        if "syntax" in cls.__dict__:
            cls.name = cls.syntax.partition(" ")[0].partition("[")[0]
            cls._pattern = _pattern(cls.syntax)
            cls._field_kinds = {found["name"]: found["kind"] for found in _FIELD.finditer(cls.syntax)}
            COMMANDS[cls.name] = cls

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line of this command. Its words are separated by single spaces. Raises :class:`BadScenario`."""
        found = cls._pattern.fullmatch(line)
        if found is None:
            raise BadScenario(f"expected '{cls.usage()}', but the line is {line!r}")
        command = cls(**{name: text or "" for name, text in found.groupdict().items()})
        command.validate()
        return command

    def validate(self) -> None:
        """Check what the syntax cannot express. Raises :class:`BadScenario`."""

    @classmethod
    def usage(cls) -> str:
        """The syntax for readers: ``leader NAME [among SERVERS]``."""
        text = _FIELD.sub(lambda field: field["kind"] if "|" in field["kind"] else field["name"].upper(), cls.syntax)
        return text.replace("[ ", " [")

    def __str__(self) -> str:
        """The line."""

        def optional(part: re.Match[str]) -> str:
            field = _FIELD.search(part[1])
            return part[1] if field is not None and getattr(self, field["name"]) else ""

        return _FIELD.sub(lambda field: str(getattr(self, field["name"])), _OPTIONAL.sub(optional, self.syntax))

    def run(self, playback: Playback) -> None:
        """Do what the line says.

        Raises:
            raftlab.explain.failure.LabFailure: The servers did something wrong while the command ran.
        """
        raise NotImplementedError

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        """Record a call of one of the methods in ``records``, make the call, and return its result."""
        recording.write(cls.of_call(recording, call))
        return call.make()

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        """The command that does what ``call`` does. Needed only by commands that do not override :meth:`record`."""
        return cls()

    def simpler(self) -> list[Command]:
        """Commands to try instead of this one when a scenario is shrunk, the simplest first."""
        return []

    def merged(self, following: Command) -> Command | None:
        """One command that does the same as this one followed by ``following``; ``None`` if there is no such command."""
        return None

    def tidied(self, names: TidyNames) -> Command:
        """The same command with the servers' new names."""
        return self.with_servers(names.server)

    def with_servers(self, rename: Callable[[str], str]) -> Self:
        renamed = {
            field: " ".join(map(rename, getattr(self, field).split()))
            for field, kind in self._field_kinds.items()
            if kind in ("server", "servers")
        }
        return dataclasses.replace(self, **renamed)  # type: ignore[type-var]  # each subclass is a dataclass


def _pattern(syntax: str) -> re.Pattern[str]:
    def group(field: re.Match[str]) -> str:
        return f"(?P<{field['name']}>{_KINDS.get(field['kind'], field['kind'])})"

    # Replace the square brackets first, because they mean something else in the fields' patterns.
    return re.compile(_FIELD.sub(group, _OPTIONAL.sub(r"(?:\1)?", syntax)))


def parse_line(line: str) -> Command:
    """The command that a line contains.

    Args:
        line: The line without its comment. Spaces around words do not matter.

    Raises:
        BadScenario: There is no such command, or its words are wrong.
    """
    line = " ".join(line.split())
    name = line.partition(" ")[0]
    if name not in COMMANDS:
        raise BadScenario(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}")
    return COMMANDS[name].parse(line)


# --- time and leaders ---


class Wait(Command):
    """Let the cluster run for some seconds. Calls that only wait or observe are recorded as this command."""

    syntax = "wait {seconds:number}"
    records = ("sleep", "wait_for", "states", "reply_to", "call_snapshot", "read_index")
    seconds: str

    def run(self, playback: Playback) -> None:
        playback.cluster.sleep(float(self.seconds))

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        return call.make(timed=True)

    def simpler(self) -> list[Command]:
        seconds = float(self.seconds)
        texts = [f"{shorter:g}" for shorter in (0.1, 0.5, 1.0, 2.0) if shorter < seconds]
        if len(self.seconds) > 3:
            texts.append(f"{seconds:.1f}" if seconds > 0.1 else f"{seconds:.2f}")
        return [Wait(text) for text in texts if text != self.seconds]

    def merged(self, following: Command) -> Command | None:
        if not isinstance(following, Wait):
            return None
        return Wait(f"{float(self.seconds) + float(following.seconds):.4g}")


class Leader(Command):
    """Wait until there is one leader (among some servers), and give it a name."""

    syntax = "leader {leader:leader}[ among {among:servers}]"
    records = ("one_leader", "settled_leader")
    leader: str
    among: str = ""

    def run(self, playback: Playback) -> None:
        playback.leaders[self.leader] = playback.cluster.one_leader(playback.among(self.among))

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        name = recording.next_leader_name()
        recording.write(cls(name, recording.among(call["among"]) if "among" in call else ""))
        leader = call.make()
        recording.name_leader(leader, name)
        return leader

    def tidied(self, names: TidyNames) -> Command:
        # Rename the servers first: they may be named after the leader that had this command's name before.
        among = self.with_servers(names.server).among
        return Leader(names.define(self.leader), among)


class Find(Command):
    """If there is a leader at this moment, give it a name."""

    syntax = "find {leader:leader}"
    records = ("leader_now",)
    leader: str

    def run(self, playback: Playback) -> None:
        leader = playback.cluster.leader_now()
        if leader is not None:
            playback.leaders[self.leader] = leader

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        leader = call.make(timed=True)
        if leader is not None and leader != recording.leader:
            name = recording.next_leader_name()
            recording.write(cls(name))
            recording.name_leader(leader, name)
        return leader

    def tidied(self, names: TidyNames) -> Command:
        return Find(names.define(self.leader))


class NoLeader(Command):
    """Expect that no connected server, or none of the given servers, is a leader."""

    syntax = "no-leader[ among {among:servers}]"
    records = ("no_leader",)
    among: str = ""

    def run(self, playback: Playback) -> None:
        playback.cluster.no_leader(playback.among(self.among))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.among(call["among"]))


class SameTerm(Command):
    """Expect that all connected servers, or the given servers, are soon in the same term."""

    syntax = "same-term[ among {among:servers}]"
    records = ("agreed_term",)
    among: str = ""

    def run(self, playback: Playback) -> None:
        playback.cluster.agreed_term(playback.among(self.among))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.among(call["among"]))


# --- proposals ---


class Propose(Command):
    """Call ``start`` on a server, for one or more commands at the same moment, whether the server is a leader or
    not."""

    syntax = "propose {server:server}[ {count:count}]"
    records = ("propose", "propose_together")
    server: str
    count: str = ""

    def run(self, playback: Playback) -> None:
        commands = [playback.next_proposal() for _ in range(int(self.count or 1))]
        playback.cluster.propose_together(playback.server(self.server), commands)

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        count = 1
        if "commands" in call:
            call["commands"] = list(call["commands"])
            count = len(call["commands"])
        return cls(recording.reference(call["server"]), str(count) if count > 1 else "")

    def simpler(self) -> list[Command]:
        if not self.count:
            return []
        count = int(self.count)
        fewer = [str(each) for each in (2, 5, count // 2) if 1 < each < count]
        return [Propose(self.server), *[Propose(self.server, each) for each in fewer]]


class Agree(Command):
    """Have a new command committed, and expect at least ``count`` servers to apply it."""

    syntax = "agree {count:count}[ among {among:servers}]"
    records = ("agree",)
    count: str
    among: str = ""

    def run(self, playback: Playback) -> None:
        playback.cluster.agree(playback.next_proposal(), int(self.count), among=playback.among(self.among))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(str(call["servers"]), recording.among(call["among"]))

    def simpler(self) -> list[Command]:
        return [] if self.count == "1" else [Agree("1")]


class Members(Command):
    """Call ``change_membership`` on a server, unless it is down or paused (lab 2E)."""

    syntax = "members {server:server} to[ {members:servers}]"
    records = ("ask_members",)
    server: str
    members: str = ""

    def run(self, playback: Playback) -> None:
        server = playback.server(self.server)
        if playback.cluster.server_state(server).running:
            playback.cluster.ask_members(server, set(playback.servers(self.members)))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["server"]), recording.references(sorted(call["members"])))


class Transfer(Command):
    """Call ``transfer_leadership`` on a server, unless it is down or paused. It need not be the leader (lab 2G)."""

    syntax = "transfer {server:server} to {target:server}"
    records = ("transfer", "ask_transfer")
    server: str
    target: str

    def run(self, playback: Playback) -> None:
        playback.cluster.transfer(playback.server(self.server), playback.server(self.target))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["server"]), recording.reference(call["target"]))


# --- servers ---


class Start(Command):
    """Start all servers that are not running, in a scenario with the line ``started off``."""

    syntax = "start"
    records = ("start_all",)

    def run(self, playback: Playback) -> None:
        playback.cluster.start_all()

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        if recording.empty:
            recording.started = True
        else:
            recording.write(cls())
        return call.make()


class _OfOneServer(Command):
    """A command that has one server as its only field."""

    server: str

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["server"]))


class Crash(_OfOneServer):
    """Crash a server. Its saved state survives."""

    syntax = "crash {server:server}"
    records = ("crash",)

    def run(self, playback: Playback) -> None:
        playback.cluster.crash(playback.server(self.server))


class Restart(_OfOneServer):
    """Start a server with its saved state. If the server is running, it crashes first."""

    syntax = "restart {server:server}"
    records = ("restart",)

    def run(self, playback: Playback) -> None:
        playback.cluster.restart(playback.server(self.server))


class Pause(_OfOneServer):
    """Stop the threads of a server that is up."""

    syntax = "pause {server:server}"
    records = ("pause",)

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        server = playback.server(self.server)
        if cluster.server_state(server).up:
            cluster.pause(playback.undo_at_check(self, server, cluster.resume))


class Resume(_OfOneServer):
    """Let the threads of a paused server run again."""

    syntax = "resume {server:server}"
    records = ("resume",)

    def run(self, playback: Playback) -> None:
        playback.cluster.resume(playback.server(self.server))


class Clock(Command):
    """Make a server's clock run at ``rate`` times the normal speed."""

    syntax = "clock {server:server} {rate:number}"
    records = ("clock_rate",)
    server: str
    rate: str

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        server = playback.server(self.server)
        playback.undo_at_check(self, server, lambda each: cluster.clock_rate(each, 1.0))
        cluster.clock_rate(server, float(self.rate))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["server"]), str(call["rate"]))


class CrashAt(Command):
    """Crash a server just before or after an effect of its code: the nth save, send, answer or apply from now on."""

    syntax = "crash-at {server:server} {side:before|after} {kind:save|send|answer|apply} {nth:count}[ of {method:word}]"
    records = ("crash_at",)
    server: str
    side: str
    kind: str
    nth: str
    method: str = ""

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        server = playback.server(self.server)
        playback.undo_at_check(self, server, lambda each: cluster.crash_at(each, "save", nth=0))
        cluster.crash_at(server, self.kind, int(self.nth), self.side, self.method)

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        if call["when"] is not None:
            recording.cannot = "the test selects effects by a condition that a scenario cannot express"
        server = recording.reference(call["server"])
        return cls(server, call["side"], call["kind"], str(call["nth"]), call["method"])


class FailSaves(Command):
    """Make the next ``count`` saves of a server raise ``OSError``."""

    syntax = "fail-saves {server:server} {count:count}"
    records = ("fail_saves",)
    server: str
    count: str

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        server = playback.server(self.server)
        playback.undo_at_check(self, server, lambda each: cluster.fail_saves(each, 0))
        cluster.fail_saves(server, int(self.count))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["server"]), str(call["count"]))


class SlowService(Command):
    """Make a server's service take ``seconds`` for each entry that it applies."""

    syntax = "slow-service {server:server} {seconds:number}"
    records = ("slow_service",)
    server: str
    seconds: str

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        server = playback.server(self.server)
        playback.undo_at_check(self, server, lambda each: cluster.slow_service(each, 0.0))
        cluster.slow_service(server, float(self.seconds))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["server"]), str(call["seconds"]))


class Snapshots(Command):
    """Make every service take a snapshot of about ``size`` bytes after every ``every`` entries."""

    syntax = "snapshots {every:count}[ {size:count}]"
    records = ("take_snapshots",)
    every: str
    size: str = ""

    def run(self, playback: Playback) -> None:
        playback.cluster.take_snapshots(int(self.every), int(self.size or 0))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(str(call["every"]), str(call["size"]))

    def simpler(self) -> list[Command]:
        return [] if self.size in ("", "0") else [Snapshots(self.every)]


class Snapshot(Command):
    """Make the service of a server take a snapshot of everything that the server has applied (lab 2D). Do nothing if
    the server is down or paused or has applied nothing."""

    syntax = "snapshot {server:server}"
    server: str

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        server = playback.server(self.server)
        index = cluster.event_loop.referee.applies.last_applied.get(server, 0)
        if index and cluster.server_state(server).running:
            cluster.call_snapshot(server, index)


# --- the network ---


class Disconnect(_OfOneServer):
    """Take a server off the network."""

    syntax = "disconnect {server:server}"
    records = ("disconnect",)

    def run(self, playback: Playback) -> None:
        playback.cluster.disconnect(playback.server(self.server))


class Connect(_OfOneServer):
    """Put a server back on the network."""

    syntax = "connect {server:server}"
    records = ("connect",)

    def run(self, playback: Playback) -> None:
        playback.cluster.connect(playback.server(self.server))


class _OfOneLink(Command):
    """A command about the link from one server to another."""

    src: str
    dst: str

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["src"]), recording.reference(call["dst"]))


class Cut(_OfOneLink):
    """Lose every message from one server to another."""

    syntax = "cut {src:server} {dst:server}"
    records = ("cut",)

    def run(self, playback: Playback) -> None:
        playback.cluster.cut(playback.server(self.src), playback.server(self.dst))


class Mend(_OfOneLink):
    """Undo ``cut``."""

    syntax = "mend {src:server} {dst:server}"
    records = ("mend",)

    def run(self, playback: Playback) -> None:
        playback.cluster.mend(playback.server(self.src), playback.server(self.dst))


class Partition(Command):
    """Only servers of the same group can reach each other. A server that is named twice belongs to the last group."""

    syntax = "partition {groups:groups}"
    records = ("partition",)
    groups: str

    def run(self, playback: Playback) -> None:
        playback.cluster.partition(*map(playback.servers, self.groups.split("|")))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        call["groups"] = tuple(list(group) for group in call["groups"])
        return cls(" | ".join(map(recording.references, call["groups"])))

    def tidied(self, names: TidyNames) -> Command:
        group_of: dict[str, int] = {}
        for number, group in enumerate(self.groups.split("|")):
            group_of.update(dict.fromkeys(map(names.server, group.split()), number))
        groups: dict[int, list[str]] = {}
        for server, number in group_of.items():
            groups.setdefault(number, []).append(server)
        return Partition(" | ".join(map(" ".join, groups.values())))


class Heal(Command):
    """Restore every link and put every server back on the network."""

    syntax = "heal"
    records = ("heal",)

    def run(self, playback: Playback) -> None:
        playback.cluster.heal()


class Unreliable(Command):
    """Make the network lose and delay messages. Fields replace some of the default probabilities and delays."""

    syntax = "unreliable[ {conditions:conditions}]"
    records = ("unreliable",)
    conditions: str = ""

    def validate(self) -> None:
        for name in self._values():
            if name not in _CONDITIONS:
                raise BadScenario(f"there is no condition {name!r}; the conditions are {', '.join(_CONDITIONS)}")

    def _values(self) -> dict[str, float]:
        pairs = (condition.split("=") for condition in self.conditions.split())
        return {name: float(value) for name, value in pairs}

    def run(self, playback: Playback) -> None:
        playback.cluster.unreliable(True, **self._values())

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        changes: dict[str, Any] = call["changes"]
        if set(changes) - set(_CONDITIONS) or (changes and not call["on"]):
            recording.cannot = "the test changes the network in a way that a scenario cannot express"
            changes = {}
        if not call["on"]:
            return Reliable()
        return cls(" ".join(f"{name}={value:.4g}" for name, value in changes.items()))

    def simpler(self) -> list[Command]:
        return [Unreliable()] if self.conditions else []


class Reliable(Command):
    """Undo ``unreliable``."""

    syntax = "reliable"

    def run(self, playback: Playback) -> None:
        playback.cluster.unreliable(on=False)


class Hold(Command):
    """Hold requests or replies until the hold is released or dropped. Fields may select messages by method, sender,
    receiver and filter, and limit their number."""

    syntax = (
        "hold {hold:word} {leg:requests|replies}[ of {method:word}][ from {src:server}][ to {dst:server}]"
        "[ carrying {filter:filter}][ most {most:count}]"
    )
    records = ("hold",)
    hold: str
    leg: str
    method: str = ""
    src: str = ""
    dst: str = ""
    filter: str = ""
    most: str = ""

    def run(self, playback: Playback) -> None:
        playback.holds[self.hold] = playback.cluster.hold(
            self.method,
            playback.server(self.src) if self.src else None,
            playback.server(self.dst) if self.dst else None,
            "request" if self.leg == "requests" else "reply",
            message_filters.FILTERS[self.filter] if self.filter else None,
            int(self.most) if self.most else None,
        )

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        chosen = next((name for name, each in message_filters.FILTERS.items() if each is call["when"]), "")
        if call["when"] is not None and not chosen:
            recording.cannot = "the test selects messages by a condition that a scenario cannot express"
        name = recording.next_hold_name()
        src, dst, most = call["src"], call["dst"], call["most"]
        recording.write(
            cls(
                name,
                "requests" if call["leg"] == "request" else "replies",
                call["method"],
                "" if src is None else recording.reference(src),
                "" if dst is None else recording.reference(dst),
                chosen,
                "" if most is None else str(most),
            )
        )
        hold: event_loop.Hold = call.make()
        hold.release = _written(recording, Release(name), hold.release)  # type: ignore[method-assign]
        hold.drop = _written(recording, Drop(name), hold.drop)  # type: ignore[method-assign]
        return hold


def _written(recording: Recording, command: Command, method: Callable[[], None]) -> Callable[[], None]:
    """``method``, which now also records ``command`` when it is called."""

    def written() -> None:
        recording.write(command)
        method()

    return written


class Catch(Command):
    """If there is a matching message in flight, hold it until the hold is released or dropped. As in ``hold``, ``from``
    is the server that made the call, even for a reply. If several messages match, ``nth`` selects one in the order in
    which they would arrive."""

    syntax = (
        "catch {hold:word} {leg:request|reply}[ of {method:word}] from {src:server} to {dst:server}[ nth {nth:count}]"
    )
    records = ("catch",)
    hold: str
    leg: str
    src: str
    dst: str
    method: str = ""
    nth: str = ""

    def run(self, playback: Playback) -> None:
        playback.holds[self.hold] = playback.cluster.catch(
            playback.server(self.src), playback.server(self.dst), self.leg, self.method, int(self.nth or 1)
        )

    @classmethod
    def record(cls, recording: Recording, call: RecordedCall) -> Any:
        name = recording.next_hold_name()
        nth = "" if call["nth"] == 1 else str(call["nth"])
        src, dst = recording.reference(call["src"]), recording.reference(call["dst"])
        recording.write(cls(name, call["leg"], src, dst, call["method"], nth))
        hold: event_loop.Hold = call.make()
        hold.release = _written(recording, Release(name), hold.release)  # type: ignore[method-assign]
        hold.drop = _written(recording, Drop(name), hold.drop)  # type: ignore[method-assign]
        return hold

    def simpler(self) -> list[Command]:
        return [dataclasses.replace(self, nth="")] if self.nth else []


class Release(Command):
    """Deliver the messages of a hold."""

    syntax = "release {hold:word}"
    hold: str

    def run(self, playback: Playback) -> None:
        if self.hold in playback.holds:
            playback.holds[self.hold].release()


class Drop(Command):
    """Lose the messages of a hold."""

    syntax = "drop {hold:word}"
    hold: str

    def run(self, playback: Playback) -> None:
        if self.hold in playback.holds:
            playback.holds[self.hold].drop()


# --- clerks (lab 3A) ---


class Op(Command):
    """Make a clerk begin an operation, unless it is busy or down. ``-`` stands for no value, which a swap may expect. A
    get may name its kind of read (lab 3B)."""

    syntax = (
        "op {clerk:clerk} {op:operation} {key:word}[ {expected:value}][ {value:value}]"
        "[ read={read:index|lease|session|snapshot}]"
    )
    records = ("begin_operation",)
    clerk: str
    op: str
    key: str
    expected: str = ""
    value: str = ""
    read: str = ""

    def validate(self) -> None:
        wanted = {"get": 0, "swap": 2}.get(self.op, 1)
        if bool(self.expected) + bool(self.value) != wanted:
            takes = {
                0: "takes a key only",
                1: "takes a key and a value",
                2: "takes a key, the expected value and a value",
            }
            raise BadScenario(f"{self.op} {takes[wanted]}, but the line is {str(self)!r}")
        if self.read and self.op != "get":
            raise BadScenario(f"only a get has a kind of read, but the line is {str(self)!r}")

    def run(self, playback: Playback) -> None:
        clerk = playback.clerk(self.clerk)
        if clerk.operation is not None or not playback.cluster.server_state(clerk.number).up:
            return
        words = [word for word in (self.expected, self.value) if word]
        values = [None if word == NO_VALUE else word for word in words]
        playback.require_reads(self, bool(self.read))
        clerk.begin(self.op, self.key, *values, read=self.read or "log")

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        words = [NO_VALUE if value is None else value for value in call["args"]]
        read = "" if call["read"] == "log" else call["read"]
        if not all(re.fullmatch(_KINDS["value"], word) for word in words) or not re.fullmatch(r"\w+", call["key"]):
            recording.cannot = "a clerk's operation has a key or value that is not one word"
            words = []
        expected, value, *_ = (*words, "", "")
        return cls(recording.reference(call["clerk"]), call["op"], call["key"], expected, value, read)


class Finish(Command):
    """Expect that a clerk's operation returns within ``seconds``."""

    syntax = "finish {clerk:clerk} {seconds:number}"
    records = ("finish_operation",)
    clerk: str
    seconds: str

    def run(self, playback: Playback) -> None:
        playback.cluster.finish_operation(playback.clerk(self.clerk).number, float(self.seconds))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(recording.reference(call["clerk"]), f"{call['within']:g}")


class Load(Command):
    """Make clerks carry out ``most`` operations each on the given keys, one after another. ``seed`` decides which
    operations."""

    syntax = "load {clerks:clerks} {most:count} {mix:mix}[ seed {seed:count}] on {keys:words}"
    records = ("keep_busy",)
    clerks: str
    most: str
    mix: str
    seed: str
    keys: str

    def run(self, playback: Playback) -> None:
        numbers = list(dict.fromkeys(playback.servers(self.clerks)))
        playback.require_reads(self, any(op in READS for op in MIXES[self.mix]))
        playback.cluster.keep_busy(numbers, self.keys.split(), MIXES[self.mix], int(self.most), int(self.seed or 0))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        mix = next((name for name, each in MIXES.items() if tuple(call["mix"]) == each), "")
        if not mix:
            recording.cannot = "the clerks use a mix of operations that a scenario cannot express"
            mix = "appends"
        clerks = recording.references(call["clerks"])
        return cls(clerks, str(call["most"]), mix, str(call["seed"]), " ".join(call["keys"]))

    def simpler(self) -> list[Command]:
        fewer = [str(most) for most in (1, 2, 5, int(self.most) // 2) if 0 < most < int(self.most)]
        found: list[Command] = [dataclasses.replace(self, most=most) for most in fewer]
        if " " in self.keys:
            found += [dataclasses.replace(self, keys=key) for key in self.keys.split()]
        if " " in self.clerks:
            found += [dataclasses.replace(self, clerks=clerk) for clerk in self.clerks.split()]
        return found


class StopClerks(Command):
    """Stop ``load``: its clerks begin no further operations."""

    syntax = "stop-clerks"
    records = ("stop_clerks",)

    def run(self, playback: Playback) -> None:
        playback.cluster.stop_clerks()


class Idle(Command):
    """Expect that all clerks of ``load`` finish within ``seconds``."""

    syntax = "idle {seconds:number}"
    records = ("clerks_idle",)
    seconds: str

    def run(self, playback: Playback) -> None:
        playback.cluster.clerks_idle(float(self.seconds))

    @classmethod
    def of_call(cls, recording: Recording, call: RecordedCall) -> Command:
        return cls(f"{call['within']:g}")


class History(Command):
    """Expect that every operation so far was carried out exactly once, that the history is linearizable, and that every
    request was answered in time."""

    syntax = "history"
    records = ("check_history",)

    def run(self, playback: Playback) -> None:
        playback.cluster.check_history()


# --- the end ---


class Check(Command):
    """Undo every fault. Then expect a leader soon and, if servers have a log, that every server applies a new command.
    If there are clerks, expect that their operations return and are linearizable, and that every key can be read."""

    syntax = "check"

    def run(self, playback: Playback) -> None:
        cluster = playback.cluster
        for hold in playback.holds.values():
            hold.release()
        cluster.heal()
        cluster.unreliable(on=False)
        playback.undo_all()
        for rest in (REST, 0.0):  # twice: a server whose save has just failed may crash a moment later
            for server in [*cluster.real_servers, *(clerk.number for clerk in cluster.clerks)]:
                if not cluster.server_state(server).up:
                    cluster.restart(server)
            cluster.sleep(rest)
        cluster.one_leader(within=PATIENCE)
        if not playback.lab.has("log"):
            return
        if playback.lab.has("service"):
            _check_clerks(cluster)
            return
        if playback.lab.has("membership"):
            membership.agree_by(cluster, playback.next_proposal(), within=PATIENCE)
        else:
            cluster.agree(playback.next_proposal(), len(cluster.real_servers), within=PATIENCE)


def _check_clerks(cluster: Cluster) -> None:
    """Expect that all operations return, that every key can be read, and that the history is right."""
    cluster.stop_clerks()
    for clerk in cluster.clerks:
        cluster.finish_operation(clerk.number, PATIENCE)
    keys = sorted({operation.key for operation in cluster.history})
    for key in keys if cluster.clerks else ():
        cluster.clerks[0].get(key, PATIENCE)
    cluster.check_history()
