"""Scenarios: runs written as text, with one command per line, and the failure with which the run ends.

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

``raftlab fuzz`` writes such texts, ``raftlab shrink`` makes them shorter, ``raftlab replay FILE`` runs them.
:mod:`raftlab.runs.scenario_commands` has the commands. Commands name servers relative to the leaders that earlier
commands found, so a scenario still makes sense if another seed makes another server the leader.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from raftlab import labs
from raftlab.harness.cluster import ServiceOptions
from raftlab.runs.scenario_commands import BadScenario, Command, Playback, TidyNames, parse_line
from raftlab.schedules import SCHEDULES
from raftlab.suites.marking import StartCluster

VERSION = 1
_HEAD = (
    "lab",
    "name",
    "seed",
    "servers",
    "schedule",
    "preempt",
    "started",
    "members",
    "clerks",
    "max-state",
    "max-sessions",
)
_END = "----"  # the line between the commands and the expected end


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run that is written down.

    Attributes:
        lab: The lab's name, such as ``"2C"``.
        name: The name of the run in reports.
        seed: 0 or more.
        servers: The number of servers, from 1 to 25.
        commands: What happens, in this order.
        schedule: How the simulator preempts threads, a name from :mod:`raftlab.schedules`. ``None``: the seed decides.
        started: Whether all servers run from the beginning. If not, the command ``start`` starts them.
        members: How many servers, from S0 on, are members at first (lab 2E). 0: all.
        clerks: The number of clerks (lab 3A).
        max_state: The argument ``max_state`` of every ``KVServer``, in bytes; 0: none.
        max_sessions: The argument ``max_sessions`` of every ``KVServer``; 0: the default.
        expected: The lines that say how the run is known to end. Comparisons of scenarios ignore them.
    """

    lab: str
    name: str
    seed: int
    servers: int
    commands: tuple[Command, ...] = ()
    schedule: str | None = None
    started: bool = True
    members: int = 0
    clerks: int = 0
    max_state: int = 0
    max_sessions: int = 0
    expected: tuple[str, ...] = field(default=(), compare=False)

    def text(self) -> str:
        """The scenario as a file contains it; :func:`parse` reads it."""
        head = [f"raftlab scenario {VERSION}", f"lab {self.lab}", f"name {self.name}", f"seed {self.seed}"]
        head += [f"servers {self.servers}"]
        head += [] if self.schedule is None else [f"schedule {self.schedule}"]
        head += [] if self.started else ["started off"]
        numbers = {
            "members": self.members, "clerks": self.clerks, "max-state": self.max_state, "max-sessions": self.max_sessions,
        }  # fmt: skip
        head += [f"{name} {number}" for name, number in numbers.items() if number]
        tail = [_END, *self.expected] if self.expected else []
        return "\n".join([*head, "", *map(str, self.commands), *tail]) + "\n"

    def with_commands(self, commands: Iterable[Command]) -> Scenario:
        return replace(self, commands=tuple(commands))

    def tidied(self) -> Scenario:
        """The same run with tidy names: leaders are called a, b, ... in the order in which commands name them. A name
        that no command gives to a leader stands for S0, and is replaced by it."""
        names = TidyNames(self.servers)
        return self.with_commands([command.tidied(names) for command in self.commands])


def parse(text: str) -> Scenario:
    """Read a scenario's text. Text after a ``#`` is a comment, except in the expected end.

    Raises:
        BadScenario: The text is not a scenario. The message says which line is wrong.
    """
    lines = text.splitlines()
    end = lines.index(_END) if _END in lines else len(lines)
    lines, expected = lines[:end], lines[end + 1 :]
    if not lines or lines[0].split()[:2] != ["raftlab", "scenario"]:
        raise BadScenario(f"a scenario begins with the line 'raftlab scenario {VERSION}'")
    if lines[0].split()[2:] != [str(VERSION)]:
        raise BadScenario(f"it begins with {lines[0]!r}, but this raftlab reads version {VERSION}")
    head: dict[str, str] = {}
    commands: list[Command] = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split("#")[0].split()
        if not words:
            continue
        # "members 3" is a line of the head; "members a to b c" is a command.
        if not commands and words[0] in _HEAD and (words[0] != "members" or len(words) == 2):
            head[words[0]] = " ".join(words[1:])
            continue
        try:
            commands.append(parse_line(" ".join(words)))
        except BadScenario as exc:
            raise BadScenario(f"line {number}: {exc}") from None
    for wanted in ("lab", "seed", "servers"):
        if wanted not in head:
            raise BadScenario(f"the line '{wanted} ...' is missing at the top")
    seed, servers, members = head["seed"], head["servers"], head.get("members", "0")
    clerks, max_state, max_sessions = (head.get(name, "0") for name in ("clerks", "max-state", "max-sessions"))
    if not all(
        number.isascii() and number.isdigit() for number in (seed, servers, members, clerks, max_state, max_sessions)
    ) or not (1 <= int(servers) <= 25 and int(members) <= int(servers)):
        raise BadScenario(
            "seed must be a whole number of 0 or more, servers a whole number from 1 to 25, and members at most the number "
            "of servers; clerks, max-state and max-sessions must be whole numbers of 0 or more"
        )
    return Scenario(
        head["lab"].upper(), head.get("name", "scenario"), int(seed), int(servers), tuple(commands), _schedule_of(head),
        head.get("started") != "off", int(members), int(clerks), int(max_state), int(max_sessions), tuple(expected),
    )  # fmt: skip


def _schedule_of(head: dict[str, str]) -> str | None:
    if head.get("preempt") == "off":  # written by older versions
        return "none"
    schedule = head.get("schedule")
    if schedule is not None and schedule not in SCHEDULES:
        raise BadScenario(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
    return schedule


class ScenarioPlayer:
    """Plays one scenario. ``begun`` is the number of its commands that have been started."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.begun = 0

    def play(self, cluster: StartCluster) -> None:
        """Perform the run, as a test's function does.

        Args:
            cluster: Starts the run's cluster.

        Raises:
            raftlab.explain.failure.LabFailure: The run failed.
        """
        scenario = self._scenario
        members = range(scenario.members) if scenario.members else None
        service: ServiceOptions = {"clerks": scenario.clerks, "max_state": scenario.max_state or None}
        if scenario.max_sessions:
            service["max_sessions"] = scenario.max_sessions
        started = cluster(scenario.servers, start=scenario.started, members=members, **service)
        playback = Playback(started, labs.find(scenario.lab))
        for command in scenario.commands:
            self.begun += 1
            command.run(playback)
