"""The fork in the road of ``raftlab diff``: the passing run that is like a failing one for the longest time.

Two seeds differ from their first event on, so comparing them says little. But a run can be made again up to any moment
and left to another chance from there: another ending of the same story. If endings from 2.4 s on pass and those from
2.5 s on all fail, then what went wrong was done in between.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from raftlab.harness.trace import NOTABLE, Event, OutgoingEvent, line, message_of
from raftlab.runs.names import NamedRun
from raftlab.runs.run import Implementation, Run

# How many endings are tried from one moment before it is given up.
TRIES = 6
# The first moment tried is so long before the failure, in seconds; each further one is twice as far away.
NEAREST = 0.01
# The moment is found to within this much, in seconds.
EXACT = 0.005
# Events shown: those that both runs have, and those of each after that.
_SAME, _OWN = 4, 8


@dataclass(frozen=True, slots=True)
class Ending:
    """A run that ended: ``failed`` is what it said, ``None`` if it passed."""

    turn: float
    events: list[Event]
    failed: str | None


class Search:
    """The endings of one run. ``tried`` and ``passed`` count them."""

    def __init__(self, impl: Implementation, named: NamedRun, seconds: float) -> None:
        self._impl = impl
        self._named = named
        self._until = time.monotonic() + seconds
        self.tried = 0
        self.passed = 0

    def play(self, turn: tuple[float, int] | None = None) -> Ending:
        """Make the run, as it is or with another ending."""
        named = self._named
        run = Run(self._impl, named.info, "sim", named.seed, named.preempt, turn=turn, called=named.file)
        failure = run.play(named.script)
        return Ending(turn[0] if turn else 0.0, run.events, failure.text if failure else None)

    def nearest(self, end: float) -> Ending | None:
        """The passing run that turns off latest before ``end``, as far as these tries can tell."""
        late, early = end, end - NEAREST
        found = self._passing(max(0.0, early))
        while found is None:
            if early <= 0 or time.monotonic() > self._until:
                return None
            late, early = early, end - 2 * (end - early)
            found = self._passing(max(0.0, early))
        while late - found.turn > EXACT and time.monotonic() < self._until:
            middle = (late + found.turn) / 2
            later = self._passing(middle)
            if later is None:
                late = middle
            else:
                found = later
        return found

    def _passing(self, when: float) -> Ending | None:
        for number in range(TRIES):
            ending = self.play((when, number))
            self.tried += 1
            if ending.failed is None:
                self.passed += 1
                return ending
        return None


def story(events: list[Event]) -> list[Event]:
    """What a run is about: what the test does, and messages but for heartbeats that are taken."""
    told: list[Event] = []
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
        told.append(event)
    return told


def fork(first: list[Event], second: list[Event]) -> tuple[list[Event], list[Event], list[Event]]:
    """The story that two runs have in common until one of them has something that the other never has; then what only
    the first has, and what only the second has. Times, the numbers of messages and who was a moment quicker do not count.
    """
    stories = [story(events) for events in (first, second)]
    own: list[list[Event]] = []
    for mine, theirs in (stories, stories[::-1]):
        left = Counter(map(_bare, theirs))
        only = []
        for event in mine:
            if left[_bare(event)]:
                left[_bare(event)] -= 1
            else:
                only.append(event)
        own.append(only)
    wrong, right = own
    # Where the runs part in time is where either has its first event of its own.
    parted = min((events[0].time for events in own if events), default=0.0)
    return [event for event in stories[0] if event.time < parted], wrong, right


def _bare(event: Event) -> tuple[object, ...]:
    fields = zip(event.__struct_fields__, event, strict=True)
    return tuple(value for name, value in fields if name not in ("time", "id"))


def diff(named: NamedRun, impl: Path, seconds: float) -> int:
    """Print where a failing run parts from the passing run nearest to it. Returns 1 (there is a failure), or 0 when the
    run passes."""
    warm = Implementation(impl)
    try:
        search = Search(warm, named, seconds)
        failing = search.play()
        name = f"{named.info.name}@{named.seed}"
        if failing.failed is None:
            print(f"{name} passes; there is nothing to compare")
            return 0
        end = failing.events[-1].time if failing.events else 0.0
        print(f"{name} fails at {end:.3f} s: {failing.failed}")
        passing = search.nearest(end)
    finally:
        warm.close()
    if passing is None:
        print(
            f"\nNo other ending passes ({search.tried} tried, from {end:.3f} s back to the start): this does not hang on\n"
            "chance. The failure itself tells all there is to tell."
        )
        return 1
    same, wrong, right = fork(failing.events, passing.events)
    print(
        f"\nOf {search.tried} other endings, the one that passes and turns off latest does so at {passing.turn:.3f} s:"
    )
    print("what decides is likely to happen soon after that. Heartbeats are left out.")
    for title, events in (
        ("both runs have", same[-_SAME:]),
        ("only the run that fails has", wrong[:_OWN]),
        ("only the run that passes has", right[:_OWN]),
    ):
        print(f"\n  {title}:")
        for event in events:
            print(f"    {line(event)}")
        if not events:
            print("    (nothing)")
    return 1
