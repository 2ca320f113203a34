"""Tests of scenarios: their text, the messages about mistakes in it, recordings of a suite's tests, and random scenarios."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from raftlab import labs
from raftlab.harness.clerks import READS
from raftlab.harness.cluster import Cluster
from raftlab.runs import random_scenarios, scenario
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import COMMANDS, BadScenario, Check, Leader, Load, Op, parse_line
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
schedule none

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


def test_a_scenarios_text_can_be_parsed_again() -> None:
    parsed = scenario.parse(TEXT)
    assert parsed.text() == TEXT
    assert (parsed.lab, parsed.name, parsed.seed, parsed.servers, parsed.schedule) == ("2C", "example", 7, 3, "none")
    assert parsed.commands[1] == Leader("a")
    assert parsed.expected == ("expected something",)


def test_preempt_off_of_older_versions_is_understood() -> None:
    assert scenario.parse(TEXT.replace("schedule none", "preempt off")) == scenario.parse(TEXT)


def test_comments_and_spaces_do_not_count() -> None:
    text = TEXT.replace("leader a\n", "  leader   a   # who else\n\n# and on\n")
    assert scenario.parse(text) == scenario.parse(TEXT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("raftlab scenario 1", "hello", "a scenario begins with the line 'raftlab scenario 1'"),
        (
            "raftlab scenario 1",
            "raftlab scenario 9",
            "it begins with 'raftlab scenario 9', but this raftlab reads version 1",
        ),
        (
            "schedule none",
            "schedule wild",
            "schedule must be one of none, random, release, priorities, pauses, not 'wild'",
        ),
        ("seed 7\n", "", "the line 'seed ...' is missing at the top"),
        ("seed 7", "seed x", "seed must be a whole number of 0 or more, servers a whole number from 1 to 25, and "),
        (
            "servers 3",
            "servers 3\nmembers 4",
            "seed must be a whole number of 0 or more, servers a whole number from 1 to 25, and members at most the number ",
        ),
        ("servers 3", "servers 26", "seed must be a whole number of 0 or more, servers a whole number from 1 to 25"),
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
def test_messages_about_mistakes_in_a_scenario(old: str, new: str, message: str) -> None:
    with pytest.raises(BadScenario, match=f"^{re.escape(message)}"):
        scenario.parse(TEXT.replace(old, new, 1))


def test_commands_with_reads_are_parsed() -> None:
    for line in ("op C0 get x", "op C0 get x read=lease", "op C0 swap read - 1;", "load C0 3 fresh-reads on a"):
        assert str(parse_line(line)) == line
    for line in ("op C0 get x read=log", "op C0 put x read=lease", "op C0 put x 1; read=lease"):
        with pytest.raises(BadScenario):
            parse_line(line)


@pytest.mark.parametrize("line", ["op C0 get x read=session", "load C0 3 fresh-reads on a"])
def test_reads_need_lab_3b(line: str, reference: Implementation) -> None:
    with pytest.raises(BadScenario, match=f"'{line}' needs lab 3B, but this is a scenario of lab 3A"):
        shrink.play(reference, Scenario("3A", "x", 0, 1, (parse_line(line),), clerks=1))


def test_tidied_scenarios_name_leaders_in_order() -> None:
    lines = [
        "crash k+4",
        "leader q among q+1 S5",
        "propose q+3 2",
        "partition q q+3 | q+1 S4 | q+1",
        "hold h1 replies of append_entries from q",
        "no-leader among q+4 k",
    ]
    tidied = Scenario("2C", "x", 0, 3, tuple(map(parse_line, lines))).tidied()
    assert [str(command) for command in tidied.commands] == [
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
    reads: set[str] = set()
    for seed in range(100):
        made = random_scenarios.generate(lab, seed)
        assert made == random_scenarios.generate(lab, seed)
        assert scenario.parse(made.text()) == made
        assert made.commands[-1] == Check()
        kinds |= {command.name for command in made.commands}
        reads |= {command.read for command in made.commands if isinstance(command, Op) and command.read}
        reads |= {command.mix for command in made.commands if isinstance(command, Load) and "reads" in command.mix}
    has = labs.find(lab).has
    # Above a service, clerks propose the commands, and the service decides when to take a snapshot.
    service = has("service")
    assert ("crash" in kinds) == has("durable")
    assert ("propose" in kinds) == (has("log") and not service)
    assert ("snapshots" in kinds) == (has("snapshots") and not service)
    assert {"op", "load"} <= kinds if service else not {"op", "load"} & kinds
    assert ("members" in kinds) == has("membership")
    assert reads == ({*READS, "reads", "fresh-reads", "everything-and-reads"} if has("reads") else set())
    assert {"cut", "partition", "pause", "clock", "hold", "release", "unreliable"} <= kinds
    for seed in range(3):
        assert shrink.play(reference, random_scenarios.generate(lab, seed)) is None


@pytest.mark.slow
def test_fuzz_of_lab_2a_needs_no_log() -> None:
    """A program for lab 2A has no log, and is correct in that lab."""
    with closing(Implementation(ROOT / "tests" / "correct" / "polling")) as impl:
        assert [shrink.play(impl, random_scenarios.generate("2A", seed)) for seed in range(5)] == [None] * 5


def test_every_recorded_method_exists() -> None:
    recorded = [method for command in COMMANDS.values() for method in command.records]
    assert len(recorded) == len(set(recorded))
    assert [method for method in recorded if not callable(getattr(Cluster, method, None))] == []


RECORDED_TESTS = [
    "many_elections", "figure_8_in_steps", "messages_of_the_past", "churn", "snapshot_chunks_come_again", "each_kind",
]  # fmt: skip


def record_test(name: str, reference: Implementation) -> tuple[ScenarioRecorder, Scenario]:
    """Record a test of the suites while it runs on the reference."""
    info = catalogue.find_test(name)
    run = Run(reference, info, "sim", 0, cluster_class=ScenarioRecorder)
    catalogue.script_of(info)(run.cluster)
    run.close()
    recorder = run.started_cluster
    assert isinstance(recorder, ScenarioRecorder)
    return recorder, recorder.scenario(info.lab, info.name, 0, run.schedule)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED_TESTS)
def test_a_recording_is_a_scenario(name: str, reference: Implementation) -> None:
    recorder, recorded = record_test(name, reference)
    assert recorder.cannot == ""
    assert scenario.parse(recorded.text()) == recorded
    assert shrink.play(reference, recorded) is None


def test_a_recording_has_the_first_members(reference: Implementation) -> None:
    recorder, recorded = record_test("add_one", reference)
    assert (recorder.cannot, recorded.members, recorded.servers) == ("", 3, 4)
    assert scenario.parse(recorded.text()) == recorded
    assert shrink.play(reference, recorded) is None


def test_a_recording_has_the_message_that_was_caught(reference: Implementation) -> None:
    run = Run(reference, catalogue.find_test("basic_agreement"), "sim", 0, "none", cluster_class=ScenarioRecorder)
    c = run.cluster(3)
    leader = c.one_leader()
    c.propose(leader, "x")
    c.sleep(0.0003)
    hold = c.catch(leader, (leader + 1) % 3, method="append_entries")
    assert [rpc.method for rpc, _ in hold.messages] == ["append_entries"]
    c.sleep(0.05)
    assert c.committed(1)[0] < 3
    hold.release()
    c.sleep(0.2)
    assert c.committed(1)[0] == 3
    assert c.catch(leader, 0, "reply", nth=7).messages == []
    run.close()
    assert isinstance(c, ScenarioRecorder)
    lines = [str(command) for command in c.scenario("2B", "x", 0, "none").commands]
    assert lines[1:] == [
        "propose a",
        "wait 0.0003",
        "catch h1 request of append_entries from a to a+1",
        "wait 0.05",
        "release h1",
        "wait 0.2",
        f"catch h2 reply from a to {'a' if leader == 0 else f'a+{3 - leader}'} nth 7",
        "wait 0.5",
    ]


def test_tests_that_cannot_be_recorded(reference: Implementation) -> None:
    assert record_test("who_gets_a_vote", reference)[0].cannot == "the test plays servers itself"
    why = "the test selects messages by a condition that a scenario cannot express"
    assert record_test("snapshot_in_chunks", reference)[0].cannot == why
    why = "the test changes the network in a way that a scenario cannot express"
    assert record_test("snapshot_overtakes_entries", reference)[0].cannot == why


def test_the_recording_of_a_short_test(reference: Implementation) -> None:
    _, recorded = record_test("figure_8_in_steps", reference)
    assert [str(command) for command in recorded.commands] == [
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
