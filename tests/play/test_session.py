"""Tests of the sessions of `raftlab play`: they replay exactly, they can be rewound, and a failure does not end them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from math import inf
from pathlib import Path

import pytest

from raftlab.play.session import Refused, Session
from raftlab.runs import names
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario, ScenarioPlayer, parse
from tests.conftest import SOLUTION, Write


@pytest.fixture(scope="module")
def reference() -> Iterator[Implementation]:
    with closing(Implementation(SOLUTION.parent)) as impl:
        yield impl


def session(impl: Implementation, lab: str = "2D", servers: int = 3, clerks: int = 0, seed: int = 0) -> Session:
    scenario = Scenario(
        lab, f"play_{lab}", seed, servers, schedule="none", clerks=clerks, max_state=3000 * bool(clerks)
    )
    return Session(impl, scenario)


def replayed(played: Session) -> str:
    """The trace hash of a replay of the session's file."""
    scenario = parse(played.scenario().text())
    run = Run(played.impl, names.info_of(scenario), "sim", scenario.seed, scenario.schedule)
    assert names.expected(run.play(ScenarioPlayer(scenario).play)) == scenario.expected
    assert run.started_cluster is not None
    return run.started_cluster.event_loop.trace.hash()


ACTIONS = {
    "2A": ("crash S0", "cut S0 S1", "mend S0 S1", "disconnect S2", "heal", "pause S1", "resume S1"),
    "2G": (
        "crash S0", "restart S0", "cut S0 S1", "heal", "propose S0", "propose S1 3", "propose S2", "snapshot S1",
        "members S0 to S0 S1 S2", "transfer S1 to S2", "hold ? requests from S1 most 2", "release h1", "drop h2",
        "unreliable", "reliable", "catch ? request from S1 to S0", "catch ? reply from S2 to S1",
    ),
    "3A": ("op C0 put x 1", "op C1 append x 2", "op C0 get x", "crash C1", "restart C1", "crash S1", "restart S1"),
}  # fmt: skip


@pytest.mark.parametrize("lab", ACTIONS)
def test_a_session_replays_exactly(lab: str, reference: Implementation) -> None:
    dice = random.Random(1)
    with closing(session(reference, lab, clerks=2 * (lab == "3A"))) as played:
        for number in range(120):
            kind = dice.random()
            if kind < 0.4:
                played.advance(played.now + dice.uniform(0.0001, 0.15), stop=dice.random() < 0.5, within=inf)
            elif kind < 0.5:
                played.step()
            elif number % 40 == 39:
                played.rewind(played.now * 0.8)
            else:
                try:
                    played.act(dice.choice(ACTIONS[lab]))
                except Refused:
                    continue
        assert played.failure is None
        assert played.now > 1
        assert replayed(played) == played.hash()


def test_the_session_stops_when_a_message_leaves(reference: Implementation) -> None:
    with closing(session(reference)) as played:
        played.advance(5.0, stop=True, within=inf)
        assert 0.1 < played.now < 1
        (number, leg, due), *_ = played.in_flight()
        assert (number, leg) == (1, "request")
        assert 0.0004 < due - played.now < 0.0015
        before = len(played.events(0, 0)[1])
        played.step()
        assert len(played.events(0, 0)[1]) > before


def test_rewind_and_undo(reference: Implementation) -> None:
    with closing(session(reference)) as played:
        played.advance(0.1, stop=False, within=inf)
        played.act("disconnect S2")
        played.advance(0.7, stop=False, within=inf)
        there = played.hash()
        _, events = played.events(0, 0)
        played.rewind(0.4)
        assert (played.now, played.generation) == (0.4, 1)
        first, later = played.events(len(events), 0)  # what a page gets if it knows only the first run
        assert 0 < first < len(events)
        assert not later
        played.act("crash S1", past=0.05)  # a moment before S2 was disconnected
        assert [str(step.command) for step in played.steps] == ["wait 0.05", "crash S1"]
        played.undo()
        assert played.now == 0.4
        played.undo()
        assert [str(step.command) for step in played.steps] == ["wait 0.05", "crash S1"]
        assert played.hash() != there
        with pytest.raises(Refused, match="propose"):
            played.act("propose", past=0.01)
        assert len(played.steps) == 2


def test_rewinding_to_a_moment_within_a_command(reference: Implementation) -> None:
    with closing(session(reference)) as played:
        played.act("leader a")
        played.act("agree 3")
        middle = played.steps[0].ended / 2
        played.rewind((played.steps[1].began + played.now) / 2)
        assert [str(step.command) for step in played.steps] == [
            "leader a",
            "agree 3",
        ]  # the session continues after the end of `agree`
        played.rewind(middle)
        assert (played.steps, round(played.now, 6)) == ([], round(middle, 6))


def test_the_same_actions_lead_to_the_same_run(reference: Implementation) -> None:
    with closing(session(reference)) as played:
        played.advance(0.5, stop=True, within=inf)
        played.advance(0.7, stop=False, within=inf)
        there = played.hash()
        played.rewind(0.2)
        played.advance(0.7, stop=False, within=inf)
        assert played.hash() == there


FAULT = "raise KeyError('<b>')"


def test_a_failure_can_be_saved_and_rewound(write_raft: Write) -> None:
    folder = write_raft(methods=f"def start(self, command):\n    {FAULT}")
    with closing(Implementation(folder)) as impl, closing(session(impl, "2B")) as played:
        played.advance(0.3, stop=False, within=inf)
        played.act("propose S1")
        played.advance(0.5, stop=False, within=inf)
        assert played.failure is not None
        assert played.failure.kind == "exception"
        assert "KeyError: '<b>'" in played.scenario().expected[0]
        assert replayed(played) == played.hash()
        with pytest.raises(Refused, match="has ended"):
            played.act("heal")
        played.rewind(0.3)  # the command that failed began at this time, so it is left out
        assert played.failure is None
        played.advance(0.4, stop=False, within=inf)
        assert played.now == 0.4


def test_changed_code_can_be_reloaded(write_raft: Write) -> None:
    def version(body: str) -> Path:
        return write_raft(methods=f"def start(self, command):\n    {body}")

    folder = version("return 1, 1, False")
    scenario = Scenario("2B", "play_2B", 0, 3, schedule="none")
    with closing(Session(Implementation(folder), scenario, lambda: Implementation(folder))) as played:
        played.act("propose S1")
        played.advance(0.3, stop=False, within=inf)
        version("return (")
        played.reload()
        assert played.failure is not None
        assert "SyntaxError" in played.failure.text + played.failure.detail
        version(FAULT)
        played.reload()
        assert played.failure is not None
        assert played.failure.kind == "exception"
        version("return 2, 2, False")
        played.reload()
        assert played.failure is None
        assert (played.now, [str(step.command) for step in played.steps]) == (0.3, ["propose S1"])
        played.close()
        played.impl.close()


@pytest.mark.parametrize(
    ("lab", "line", "message"),
    [
        ("2A", "restart S0", "restart is for lab 2C and later ones, and this is lab 2A"),
        ("2A", "propose S0", "propose is for lab 2B and later ones"),
        ("2C", "snapshot S0", "snapshot is for lab 2D"),
        ("2D", "transfer S0 to S1", "transfer is for lab 2G"),
        ("2D", "op C0 get x", "op is for lab 3A"),
        ("3A", "propose S0", "propose is not for lab 3A"),
        ("3A", "members S0 to S1", "members is for labs 2E to 2G, and this is lab 3A"),
        ("3A", "transfer S0 to S1", "transfer is for lab 2G, and this is lab 3A"),
        ("2D", "dance S0", "there is no command 'dance'"),
        ("2B", "crash S0; check", "S0 has crashed, and servers of lab 2B save nothing"),
    ],
)
def test_commands_that_cannot_be_carried_out_are_refused(
    lab: str, line: str, message: str, reference: Implementation
) -> None:
    with closing(session(reference, lab)) as played:
        *before, last = line.split("; ")
        for each in before:
            played.act(each)
        with pytest.raises(Refused, match=message):
            played.act(last)
        assert len(played.steps) == len(before)
