"""Scenarios: the text of a run, what is said of a bad one, recordings of tests, random ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from raftlab import labs
from raftlab.harness.cluster import Cluster
from raftlab.runs import random_scenarios, scenario
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import COMMANDS, BadScenario, Check, Leader, parse_line
from raftlab.runs.scenario_recorder import ScenarioRecorder
from raftlab.suites import catalogue
from raftlab.tools import shrink
from tests.conftest import ROOT, SOLUTION

TEXT = """\
raftlab scenario 1
lab 2C
name example
seed 7
servers 3
preempt off

unreliable lose_request=0.1 duplicate=0.2
leader a
hold h1 requests of append_entries from a to a+1 carrying entries most 2
propose a 3
partition a | a+1 a+2
wait 0.25
find b
crash-at b before save 1
release h1
heal
check
----
expected something
"""


@pytest.fixture(scope="module")
def reference() -> Iterator[Implementation]:
    with closing(Implementation(SOLUTION.parent)) as impl:
        yield impl


def test_text_and_back() -> None:
    told = scenario.parse(TEXT)
    assert told.text() == TEXT
    assert (told.lab, told.name, told.seed, told.servers, told.preempt) == ("2C", "example", 7, 3, False)
    assert told.commands[1] == Leader("a")
    assert told.expected == ("expected something",)


def test_comments_and_spaces_do_not_count() -> None:
    text = TEXT.replace("leader a\n", "  leader   a   # who else\n\n# and on\n")
    assert scenario.parse(text) == scenario.parse(TEXT)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("raftlab scenario 1", "hello", "a scenario begins with the line 'raftlab scenario 1'"),
        (
            "raftlab scenario 1",
            "raftlab scenario 9",
            "it begins with 'raftlab scenario 9', but this raftlab reads version 1",
        ),
        ("seed 7\n", "", "the line 'seed ...' is missing at the top"),
        ("seed 7", "seed x", "seed must be a whole number from 0 on, servers one from 1 to 25, and members at "),
        (
            "servers 3",
            "servers 3\nmembers 4",
            "seed must be a whole number from 0 on, servers one from 1 to 25, and members at ",
        ),
        ("servers 3", "servers 26", "seed must be a whole number from 0 on, servers one from 1 to 25"),
        ("heal", "members to a", "line 17: expected 'members SERVER to [MEMBERS]', but the line is 'members to a'"),
        ("heal", "heel", "line 17: there is no command 'heel'; the commands are wait, leader, find, "),
        ("wait 0.25", "wait long", "line 13: expected 'wait SECONDS', but the line is 'wait long'"),
        (
            "crash-at b before save 1",
            "crash-at b",
            "line 15: expected 'crash-at SERVER before|after save|send|answer|apply NTH [of METHOD]', "
            "but the line is 'crash-at b'",
        ),
        (
            "duplicate=0.2",
            "dup=0.2",
            "line 8: there is no condition 'dup'; the conditions are lose_request, lose_reply, ",
        ),
    ],
)
def test_what_is_said_of_a_bad_text(old: str, new: str, said: str) -> None:
    with pytest.raises(BadScenario, match=f"^{re.escape(said)}"):
        scenario.parse(TEXT.replace(old, new, 1))


def test_tidy() -> None:
    lines = [
        "crash k+4",
        "leader q among q+1 S5",
        "propose q+3 2",
        "partition q q+3 | q+1 S4 | q+1",
        "hold h1 replies of append_entries from q",
        "no-leader among q+4 k",
    ]
    told = Scenario("2C", "x", 0, 3, tuple(map(parse_line, lines))).tidied()
    assert [str(command) for command in told.commands] == [
        "crash S1",
        "leader a among S1 S2",
        "propose a 2",
        "partition a | a+1 | S1",
        "hold h1 replies of append_entries from a",
        "no-leader among a+1 S0",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("lab", list(labs.LABS))
def test_random_scenarios(lab: str, reference: Implementation) -> None:
    kinds: set[str] = set()
    for seed in range(300):
        made = random_scenarios.generate(lab, seed)
        assert made == random_scenarios.generate(lab, seed)
        assert scenario.parse(made.text()) == made
        assert made.commands[-1] == Check()
        kinds |= {command.name for command in made.commands}
    has = labs.find(lab).has
    assert ("crash" in kinds) == has("durable")
    assert ("propose" in kinds) == has("log")
    assert ("snapshots" in kinds) == has("snapshots")
    assert ("members" in kinds) == has("membership")
    assert {"cut", "partition", "pause", "clock", "hold", "release", "unreliable"} <= kinds
    for seed in range(6):
        assert shrink.play(reference, random_scenarios.generate(lab, seed)) is None


@pytest.mark.slow
def test_fuzz_asks_an_election_for_no_log() -> None:
    """A program that ends with lab 2A is right there."""
    with closing(Implementation(ROOT / "tests" / "correct" / "polling")) as impl:
        assert [shrink.play(impl, random_scenarios.generate("2A", seed)) for seed in range(5)] == [None] * 5


def test_every_recorded_method_exists() -> None:
    recorded = [method for command in COMMANDS.values() for method in command.records]
    assert len(recorded) == len(set(recorded))
    assert [method for method in recorded if not callable(getattr(Cluster, method, None))] == []


TAPED = ["many_elections", "figure_8_in_steps", "messages_of_the_past", "churn", "snapshot_chunks_come_again"]


def taped(name: str, reference: Implementation) -> tuple[ScenarioRecorder, Scenario]:
    """A test of the suites, run on the reference with the tape recorder on."""
    info = catalogue.find_test(name)
    run = Run(reference, info, "sim", 0, True, cluster_class=ScenarioRecorder)
    catalogue.script_of(info)(run.cluster)
    run.close()
    tape = run.started_cluster
    assert isinstance(tape, ScenarioRecorder)
    return tape, tape.scenario(info.lab, info.name, 0, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", TAPED)
def test_a_tape_is_a_scenario(name: str, reference: Implementation) -> None:
    tape, told = taped(name, reference)
    assert tape.cannot == ""
    assert scenario.parse(told.text()) == told
    assert shrink.play(reference, told) is None


def test_a_recording_has_the_first_members(reference: Implementation) -> None:
    recorder, recorded = taped("add_one", reference)
    assert (recorder.cannot, recorded.members, recorded.servers) == ("", 3, 4)
    assert scenario.parse(recorded.text()) == recorded
    assert shrink.play(reference, recorded) is None


def test_what_no_tape_can_hold(reference: Implementation) -> None:
    assert taped("who_gets_a_vote", reference)[0].cannot == "the test plays servers itself"
    said = "the test picks messages in a way that has no name"
    assert taped("snapshot_in_chunks", reference)[0].cannot == said
    said = "the test changes the network in a way that has no name"
    assert taped("snapshot_overtakes_entries", reference)[0].cannot == said


def test_the_tape_of_a_short_test(reference: Implementation) -> None:
    _, told = taped("figure_8_in_steps", reference)
    assert [str(command) for command in told.commands] == [
        "agree 3",
        "leader a",
        "hold h1 requests of append_entries from a carrying entries",
        "propose a",
        "wait 0.1",
        "crash a",
        "drop h1",
        "hold h2 requests of append_entries from a+1 carrying entries",
        "hold h3 requests of append_entries from a+2 carrying entries",
        "leader b",
        "propose b",
        "wait 0.1",
        "crash b",
        "drop h2",
        "drop h3",
        "hold h4 requests of append_entries from a carrying own-term",
        "restart a",
        "leader c",
        "wait 1",
        "crash c",
        "drop h4",
        "restart b",
        "agree 2",
        "restart c",
        "agree 3",
        "wait 0.5",
    ]
