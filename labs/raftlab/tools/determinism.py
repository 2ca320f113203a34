"""`raftlab test --check-determinism`: perform each run twice, in two fresh processes, and compare all events.

With the same seed, the simulator should always produce the same run; `raftlab replay` relies on this. The simulator
controls clocks, random numbers and the hashes of strings. So two runs can differ only if student code depends on memory
addresses or on files.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raftlab.command_line import FAILED, PASSED
from raftlab.harness.trace import Event, line
from raftlab.runs.run import Run
from raftlab.safe_text import printable
from raftlab.submission import source
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.tools.arguments import Target
from raftlab.tools.printing import count

_SUSPECTS_SHOWN = 6
_SUSPICIOUS_CALLS = ("id", "hash", "open")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event in which two runs with the same seed differ.

    Attributes:
        number: The event's number, from 1.
        first: The event in the first run; ``None`` if that run was over.
        second: The event in the second run; ``None`` if that run was over.
    """

    number: int
    first: Event | None
    second: Event | None

    def lines(self) -> list[str]:
        shown = ["(the run is over)" if event is None else line(event).strip() for event in (self.first, self.second)]
        return [f"event {self.number} of one run:    {shown[0]}", f"event {self.number} of the other:  {shown[1]}"]


def compare(first: list[Event], second: list[Event]) -> Difference | None:
    """The first event in which the runs differ; ``None`` if they do not differ."""
    for number in range(max(len(first), len(second))):
        pair = [events[number] if number < len(events) else None for events in (first, second)]
        if pair[0] != pair[1]:
            return Difference(number + 1, *pair)
    return None


def check(target: Target, tests: Sequence[TestInfo], seeds: Sequence[int], schedule: str | None) -> int:
    """Perform every run of some tests twice in the simulator, and print the differences.

    Args:
        target: The submission and its sandbox.
        tests: The tests.
        seeds: Each test runs with each of these seeds.
        schedule: As for :class:`~raftlab.runs.run.Run`.

    Returns:
        0 if nothing differs, else 1.
    """
    # Two warm hosts, so that objects have different addresses in the two runs.
    implementations = [target.implementation(), target.implementation()]
    runs = different = 0
    try:
        for info in tests:
            for seed in seeds:
                events = []
                for implementation in implementations:
                    run = Run(implementation, info, "sim", seed, schedule)
                    run.play(catalogue.script_of(info))  # whether the run passes does not matter here
                    events.append(run.events)
                runs += 1
                if difference := compare(*events):
                    different += 1
                    print(f"{info.name}@{seed}: two runs with the same seed differ")
                    for text in difference.lines():
                        print(f"  {text}")
    finally:
        for implementation in implementations:
            implementation.close()
    if different:
        print(
            f"\n{different} of {count(runs, 'run')} cannot be repeated exactly, so a replay may show a different run."
        )
        print("Likely causes: the order of a set, id() or hash() of an object, or a file that is read.")
        for place in suspects(implementations[0].folder):
            print(printable(f"  look at {place}"))
        return FAILED
    print(f"{count(runs, 'run')}, each performed twice: all events are the same")
    return PASSED


def suspects(impl: Path) -> list[str]:
    """Lines of the submission that may make runs differ, such as ``raft.py:12: id(...)``."""
    submission = source.find(impl)
    places = []
    for path in submission.modules.values():
        shown = submission.show(path)
        tree = source.parse(path, shown)
        sets = {
            target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            for node in ast.walk(tree)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_set(node.value, set())
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        } - {""}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SUSPICIOUS_CALLS:
                places.append((shown, node.lineno, f"{node.func.id}(...)"))
            elif isinstance(node, (ast.For, ast.comprehension)) and _is_set(node.iter, sets):
                places.append((shown, node.iter.lineno, f"a loop over the set {ast.unparse(node.iter)}"))
    return [f"{name}:{number}: {what}" for name, number, what in sorted(set(places))[:_SUSPECTS_SHOWN]]


def _is_set(node: ast.expr | None, names: set[str]) -> bool:
    """Whether an expression creates a set, or is a variable or field in ``names``."""
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.Attribute) and node.attr in names)
