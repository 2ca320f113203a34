"""Records what a test does to its cluster, as a scenario.

``raftlab shrink`` needs a failing test as a list of commands that can be taken out one by one. If a test decides something
by a random number or an ``if``, the recording has the outcome; if it merely looks at the cluster, the recording has only
the time that this took.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

from raftlab.harness.cluster import Cluster
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import COMMANDS, Command, RecordedCall, Recording

# Seconds of the lab's time that are added at the end, so that a failure that ended a wait of the test is still reached.
_MARGIN = 0.5


class ScenarioRecorder(Cluster):
    """A cluster that records what a test does to it: each method that some command ``records`` is overridden.

    Attributes:
        recording: the recording so far.
    """

    def __init__(
        self, world: Any, lab: str, seed: int, servers: int, scripted: Collection[int] = (),
        members: Collection[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(world, lab, seed, servers, scripted, members)
        self.recording = Recording(self)
        # The field of Scenario: how many servers, from S0 on, are members at first; 0: all.
        self._members = 0 if members is None or len(members) == servers else len(members)
        if self._members and sorted(self.members) != list(range(self._members)):
            self.recording.cannot = "the first members are not the first servers"
        if scripted:
            self.recording.cannot = "the test plays servers itself"

    @property
    def cannot(self) -> str:
        """Why the recording is incomplete, as a clause; empty if it is complete."""
        return self.recording.cannot

    def scenario(self, lab: str, name: str, seed: int, preempt: bool) -> Scenario:
        """What was recorded, to be called at the end of the run. The arguments are those of :class:`Scenario`."""
        self.recording.write_wait(_MARGIN)
        commands = tuple(self.recording.commands)
        return Scenario(lab, name, seed, self.size, commands, preempt, self.recording.started, self._members)


def _recorded(method_name: str, command: type[Command]) -> Callable[..., Any]:
    plain = getattr(Cluster, method_name)
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def method(self: ScenarioRecorder, *args: Any, **named: Any) -> Any:
        if self.recording.nested:
            return plain(self, *args, **named)
        bound = signature.bind(self, *args, **named)
        bound.apply_defaults()
        call = RecordedCall(self.recording, bound.arguments, lambda: plain(*bound.args, **bound.kwargs))
        return command.record(self.recording, call)

    return method


for _command in COMMANDS.values():
    for _method in _command.records:
        setattr(ScenarioRecorder, _method, _recorded(_method, _command))
