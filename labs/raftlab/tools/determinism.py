"""The second look of ``raftlab test --check-determinism``: every run twice, in two fresh processes, event by event.

The simulator makes one run out of one seed, and replay rests on it. A student's code can break that in few ways, because
clocks, random numbers and the hashes of strings are the simulator's: what is left hangs on memory addresses or on files.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from raftlab.harness.trace import Event, line
from raftlab.runs.run import Implementation, Run
from raftlab.submission import source
from raftlab.suites import catalogue
from raftlab.tools.test import Order

_MOST_PLACES = 6


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs of one seed part: the number of the event, from 1, and both events (``None``: no more)."""

    number: int
    first: Event | None
    second: Event | None

    def lines(self) -> list[str]:
        shown = ["(the run is over)" if event is None else line(event).strip() for event in (self.first, self.second)]
        return [f"event {self.number} is in one run:  {shown[0]}", f"           and in the other:  {shown[1]}"]


def compare(first: list[Event], second: list[Event]) -> Difference | None:
    """The first event that differs, if any."""
    for number in range(max(len(first), len(second))):
        pair = [events[number] if number < len(events) else None for events in (first, second)]
        if pair[0] != pair[1]:
            return Difference(number + 1, *pair)
    return None


def check(order: Order) -> int:
    """Run everything in ``order`` twice and print what differs. Returns 0 if nothing does, else 1."""
    # Two warm hosts, so that nothing lies at the same address in both.
    impls = [Implementation(order.impl), Implementation(order.impl)]
    runs = different = 0
    try:
        for info, _ in order.plan:
            for seed in order.seeds:
                found = []
                for impl in impls:
                    run = Run(impl, info, "sim", seed, order.preempt)
                    run.play(catalogue.script_of(info))  # red or green is another question
                    found.append(run.events)
                runs += 1
                if difference := compare(*found):
                    different += 1
                    print(f"{info.name}@{seed}: two runs of one seed differ")
                    for text in difference.lines():
                        print(f"  {text}")
    finally:
        for impl in impls:
            impl.close()
    if different:
        print(f"\n{different} of {runs} seeds do not repeat, so their replay may show another run.")
        print("Likely sources: the order of a set, id() or hash() of an object, a file that is read.")
        for place in suspects(order.impl):
            print(f"  look at {place}")
        return 1
    print(f"{runs} {'seed' if runs == 1 else 'seeds'}, each run twice: the same to the last event")
    return 0


def suspects(impl: Path) -> list[str]:
    """Lines of the submission on which runs may differ: ``raft.py:12: id(...)``."""
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
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("id", "hash", "open")
            ):
                places.append((shown, node.lineno, f"{node.func.id}(...)"))
            elif isinstance(node, (ast.For, ast.comprehension)) and _is_set(node.iter, sets):
                places.append((shown, node.iter.lineno, f"a loop over the set {ast.unparse(node.iter)}"))
    return [f"{name}:{number}: {what}" for name, number, what in sorted(set(places))[:_MOST_PLACES]]


def _is_set(node: ast.expr | None, names: set[str]) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return (isinstance(node, ast.Name) and node.id in names) or (isinstance(node, ast.Attribute) and node.attr in names)
