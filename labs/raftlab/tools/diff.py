"""`raftlab diff`: find the passing run that stays identical to a failing run the longest.

Runs with two different seeds differ from the first event on, so comparing them says little. But a run can be repeated
up to any moment and then continue with other random numbers. This is called a branch of the run. If some branches at
2.4 s pass and all branches at 2.5 s fail, something went wrong in between.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

from raftlab.command_line import FAILED, PASSED
from raftlab.harness.trace import NOTABLE, Event, OutgoingEvent, line, message_of
from raftlab.runs import names
from raftlab.runs.names import NamedRun
from raftlab.runs.run import Branch, Implementation, Run
from raftlab.safe_text import printable
from raftlab.tools.arguments import Target, add_submission, add_time_limit, seconds, submission
from raftlab.tools.replay import add_run

# If this many branches at one moment fail, we assume that every branch at that moment fails.
TRIES = 6
# Seconds between the first branch and the failure. Each further branch is twice as far from the failure.
NEAREST = 0.01
# The precision with which the moment is searched for, in seconds.
PRECISION = 0.005
# How many events are shown: of the last events that both runs have, and of the first events that only one run has.
_COMMON_SHOWN, _OWN_SHOWN = 4, 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_submission(parser)
    add_time_limit(parser, "stop searching after this time, such as 30s, 5m or 1h (default: 60s)")


def run(arguments: argparse.Namespace) -> int:
    """Compare the run with a passing one. Returns the exit code."""
    named = names.named(arguments.name, "sim", arguments.schedule)
    return diff(named, submission(arguments, named.info.lab), seconds(arguments))


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run.

    Attributes:
        branch_time: The moment of its branch, in seconds; 0 without a branch.
        events: All its events.
        failed: How it failed, as a sentence; ``None`` if it passed.
    """

    branch_time: float
    events: list[Event]
    failed: str | None


class Search:
    """A search among the branches of one run.

    Attributes:
        tried: The number of branches that have run.
        timed_out: Whether the search ended because it ran out of time.
    """

    def __init__(self, impl: Implementation, named: NamedRun, seconds: float) -> None:
        """``seconds`` is how long the search may take, by the wall clock."""
        self._impl = impl
        self._named = named
        self._deadline = time.monotonic() + seconds
        self.tried = 0
        self.timed_out = False

    def play(self, branch: Branch | None = None) -> FinishedRun:
        """Perform the run, unchanged or with a branch."""
        named = self._named
        run = Run(self._impl, named.info, "sim", named.seed, named.schedule, branch=branch, file=named.file)
        failure = run.play(named.script)
        return FinishedRun(branch.time if branch else 0.0, run.events, failure.text if failure else None)

    def latest_passing(self, end: float) -> FinishedRun | None:
        """The latest passing branch before ``end`` (seconds). ``None`` if no branch passes, or none was found in
        time."""
        late, early = end, end - NEAREST
        found = self._passing(max(0.0, early))
        while found is None:
            if early <= 0 or self._out_of_time():
                return None
            late, early = early, end - 2 * (end - early)
            found = self._passing(max(0.0, early))
        while late - found.branch_time > PRECISION and not self._out_of_time():
            middle = (late + found.branch_time) / 2
            later = self._passing(middle)
            if later is None:
                late = middle
            else:
                found = later
        return found

    def _out_of_time(self) -> bool:
        self.timed_out = time.monotonic() > self._deadline
        return self.timed_out

    def _passing(self, when: float) -> FinishedRun | None:
        for number in range(TRIES):
            finished = self.play(Branch(when, number))
            self.tried += 1
            if finished.failed is None:
                return finished
        return None


def notable(events: list[Event]) -> list[Event]:
    """The events that matter in a comparison: what the test does, requests and answers. Accepted heartbeats are left
    out."""
    found: list[Event] = []
    heartbeats = set()
    for event in events:
        if event.kind not in NOTABLE or event.kind in ("reply", "lost"):
            continue
        if isinstance(event, OutgoingEvent) and event.method == "append_entries":
            message = message_of(event.message)
            if event.kind == "send" and not message.get("entries"):
                heartbeats.add(event.id)
                continue
            if event.id in heartbeats and message.get("success") is True:
                continue
        found.append(event)
    return found


def compare(first: list[Event], second: list[Event]) -> tuple[list[Event], list[Event], list[Event]]:
    """Compare the notable events of two runs, regardless of times, message numbers and order.

    Returns:
        The events before the first difference; the events that only the first run has; and the events that only the
        second run has.
    """
    runs = [notable(events) for events in (first, second)]
    own: list[list[Event]] = []
    for mine, theirs in (runs, runs[::-1]):
        left = Counter(map(_content, theirs))
        only = []
        for event in mine:
            if left[_content(event)]:
                left[_content(event)] -= 1
            else:
                only.append(event)
        own.append(only)
    parted = min((events[0].time for events in own if events), default=0.0)
    return [event for event in runs[0] if event.time < parted], own[0], own[1]


def _content(event: Event) -> tuple[object, ...]:
    fields = zip(event.__struct_fields__, event, strict=True)
    return tuple(value for name, value in fields if name not in ("time", "id"))


def diff(named: NamedRun, target: Target, seconds: float) -> int:
    """Print where a failing run departs from the passing run that stays identical to it the longest.

    Args:
        named: The failing run.
        target: The submission and its sandbox.
        seconds: How long to search, by the wall clock.

    Returns:
        0 if the run passes, otherwise 1.
    """
    warm = target.implementation()
    try:
        search = Search(warm, named, seconds)
        failing = search.play()
        name = f"{named.info.name}@{named.seed}"
        if failing.failed is None:
            print(f"{name} passes; there is nothing to compare")
            return PASSED
        end = failing.events[-1].time if failing.events else 0.0
        print(f"{name} fails at {end:.3f} s: {printable(failing.failed)}")
        passing = search.latest_passing(end)
    finally:
        warm.close()
    print(f"\n{search.tried} runs repeat this one up to some moment and then continue with different random choices.")
    if passing is None:
        if search.timed_out:
            print("None of them passed before the time was up. Use --for to search longer.")
        else:
            print("All of them fail, even those that differ from the start: the failure does not depend on chance.")
        return FAILED
    print(
        f"The passing run that stays identical the longest departs at {passing.branch_time:.3f} s. "
        "What happens soon after that probably decides\nthe outcome. Heartbeats are left out."
    )
    common, wrong, right = compare(failing.events, passing.events)
    for title, events in (
        ("both runs have", common[-_COMMON_SHOWN:]),
        ("only the run that fails has", wrong[:_OWN_SHOWN]),
        ("only the run that passes has", right[:_OWN_SHOWN]),
    ):
        print(f"\n  {title}:")
        for event in events:
            print(f"    {line(event)}")
        if not events:
            print("    (nothing)")
    return FAILED
