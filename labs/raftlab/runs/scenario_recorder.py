"""Records what a test does to its cluster, as a scenario.

``raftlab shrink`` needs a failing test as a list of commands that can be removed one by one. If a test makes a decision
by a random number or an ``if``, the recording contains the outcome of that decision. If a test only observes the
cluster, the recording contains only the time that passed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, Unpack

from raftlab.harness.cluster import Cluster, ServiceOptions
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import COMMANDS, Command, RecordedCall, Recording

# Seconds of the lab's time for which a recorded scenario continues after its last command. The recording of a failing
# run ends at the moment of the failure. In a replay, the same failure may happen a little later, so the replay needs
# some extra time.
_MARGIN = 0.5


class ScenarioRecorder(Cluster):
    """A cluster that records what a test does to it. It overrides each method that a command lists in ``records``.

    Attributes:
        recording: The recording so far.
    """

    def __init__(
        self, world: Any, lab: str, seed: int, servers: int, scripted: Collection[int] = (),
        members: Collection[int] | None = None, **service: Unpack[ServiceOptions],
    ) -> None:  # fmt: skip
        super().__init__(world, lab, seed, servers, scripted, members, **service)
        self.recording = Recording(self)
        # Scenario.members: how many servers, from S0 on, are members at first; 0: all.
        self._members = 0 if members is None or len(members) == servers else len(members)
        if self._members and sorted(self.members) != list(range(self._members)):
            self.recording.cannot = "the initial members are not S0, S1, ... without a gap"
        if scripted:
            self.recording.cannot = "the test plays servers itself"
        if self.scripted_clerks:
            self.recording.cannot = "the test plays clerks itself"

    @property
    def cannot(self) -> str:
        """The reason why the recording is incomplete, as a clause; empty if it is complete."""
        if self.event_loop.put_waits:
            return "the services take their snapshots while put() waits"
        return self.recording.cannot

    def scenario(self, lab: str, name: str, seed: int, schedule: str) -> Scenario:
        """The recorded scenario. Call this at the end of the run. The arguments are those of :class:`Scenario`."""
        self.recording.write_wait(_MARGIN)
        commands = tuple(self.recording.commands)
        settings = self.event_loop.service_settings
        return Scenario(
            lab, name, seed, self.size, commands, schedule, self.recording.started, self._members, len(self.clerks),
            0 if settings is None else settings.max_state or 0, 0 if settings is None else settings.max_sessions,
        )  # fmt: skip


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
