"""Tests of the handouts of labs 2E to 2G, in addition to those that `test_handouts.py` has for every lab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug
from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.membership import CHANGE_LIMIT
from raftlab.submission import skeleton
from raftlab.tools import test as session
from tests.handouts.test_handouts import (
    FIRST_PAGES,
    PAGES,
    SOLUTION,
    anchors,
    example,
    run,
    shapes,
    text_of,
    transcript,
    words,
)
from tests.known_bugs import BANK, put

pytestmark = pytest.mark.slow

THESE = pytest.mark.parametrize("lab", ["2E", "2F", "2G"])


@THESE
def test_the_rules_point_to_the_details(lab: str) -> None:
    (_, path, _) = PAGES[lab]
    pointed = {
        rule.handout.partition("#")[2]
        for rule in vars(rules).values()
        if isinstance(rule, Rule) and f"/{path.name}#" in rule.handout
    }
    assert len(pointed) >= 5
    assert pointed <= anchors(path)


@pytest.mark.parametrize(("lab", "test"), [("2E", "add_one"), ("2F", "cut_off_server"), ("2G", "transfers_refused")])
def test_first_run(lab: str, test: str, tmp_path: Path) -> None:
    """The output that the handout shows is that of a new folder for this lab. Numbers and the order of events may differ."""
    (tmp_path / "raft.py").write_text(skeleton.generate(SOLUTION.read_text(encoding="utf-8"), lab), encoding="utf-8")
    command = f"raftlab test {lab} -k {test}"
    shown, real = transcript(lab, command), run(command, tmp_path)
    head = slice(0, 6)
    assert [re.sub(r"S\d", "S#", line) for line in words(shown)[head]] == [
        re.sub(r"S\d", "S#", line) for line in words(real)[head]
    ]
    assert f"raftlab new myraft --from {lab}\n" in FIRST_PAGES[lab].read_text(encoding="utf-8")


@THESE
def test_every_command_of_a_step_runs_a_test(lab: str) -> None:
    text = FIRST_PAGES[lab].read_text(encoding="utf-8")
    parts = re.findall(rf"^raftlab test {lab} -k (\w+)$", text, re.MULTILINE)
    assert parts
    assert all(session.plan(lab, "sim", part) for part in parts)


@pytest.mark.parametrize(
    ("lab", "bug", "command"),
    [
        (
            "2E",
            BANK.find("2E", "mb-joint-new-only-copies"),
            "raftlab test 2E -k part2_minority_of_the_old --seeds 3:4",
        ),
        ("2F", BANK.find("2F", "pv-no-lease-check"), "raftlab test 2F -k one_link_is_cut"),
        ("2G", BANK.find("2G", "tl-flag-ignored"), "raftlab test 2G -k leads_at_once"),
    ],
    ids=["2E", "2F", "2G"],
)
def test_the_example_is_what_its_mistake_gives(lab: str, bug: Bug, command: str, tmp_path: Path) -> None:
    put(bug, tmp_path)
    shown, real = example(lab), run(command, tmp_path)
    led_there = "\n  what led there:\n"
    assert words(shown.partition(led_there)[0]) == words(real[real.index("\nexpected ") + 1 :].partition(led_there)[0])
    replay = re.search(r"^  replay: (.*)$", shown, re.MULTILINE)
    assert replay
    assert not shapes(shown) - shapes(run(replay[1], tmp_path))


def test_the_pictures_are_of_real_runs(tmp_path: Path) -> None:
    """A picture names a run, and that run contains the picture's events in the same order. Times may differ."""
    (tmp_path / "raft.py").write_text(SOLUTION.read_text(encoding="utf-8"), encoding="utf-8")
    for lab in ("2E", "2F", "2G"):
        (name,) = re.findall(r"<!-- run: (\w+@\d+) -->", text_of(lab))
        events = run(f"raftlab replay {name}", tmp_path)
        if lab == "2E":
            order = [
                r"S0\.change_membership\(\[0, 2, 3\]\)",
                r"S3⇢S0",
                r"returns \[2, 1, True\]",
                r"applies index=3 .*members=\[0, 2, 3\]",
            ]
        elif lab == "2G":
            order = [
                r"S1\.transfer_leadership returns \[2, 1, True\]",
                r"S1→S2 AppendEntries term=1 prev=\(1,1\) entries=3",
                r"S2⇢S1 AppendEntries answers term=1 success=True",
                r"S1→S2 TimeoutNow term=1",
                r"S2→S0 RequestVote term=2 last=\(4,1\) leadership_transfer=True",
                r"S0⇢S2 RequestVote answers term=2 vote_granted=True",
                r"S2→S1 AppendEntries term=2",
            ]
        else:
            order = [r"network: cut", r"PreVote term=2", r"PreVote answers term=1 vote_granted=False"]
        at = 0
        for wanted in order:
            found = re.compile(wanted).search(events, at)
            assert found, f"{name} has no {wanted}: make the picture again"
            at = found.end()


def test_the_time_limit_for_an_answer_is_that_of_the_suite() -> None:
    assert f"within {CHANGE_LIMIT:.0f} seconds" in text_of("2E")
