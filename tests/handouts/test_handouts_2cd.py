"""Tests of the handouts of labs 2C and 2D, in addition to those that `test_handouts.py` has for every lab."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import re
from pathlib import Path

import pytest

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.submission import skeleton
from raftlab.suites import catalogue, lab_2d
from raftlab.suites.helpers import scripted_leader
from raftlab.tools import test as session
from tests.handouts.test_handouts import (
    FIRST_PAGES,
    PAGES,
    SKELETON,
    SOLUTION,
    anchors,
    broken,
    section,
    text_of,
)
from tests.known_bugs import failures_of

Change = tuple[str, str]


# --- anchors that the rules of the labs point to ---


@pytest.mark.parametrize("lab", ["2C", "2D"])
def test_the_rules_point_to_the_details(lab: str) -> None:
    (_, details, _) = PAGES[lab]
    pointed = {
        rule.handout.partition("#")[2]
        for rule in vars(rules).values()
        if isinstance(rule, Rule) and f"/{details.name}#" in rule.handout
    }
    assert len(pointed) >= 3
    assert pointed <= anchors(details)


# --- what runs say ---


def test_every_test_of_2c_fails_before_2c_begins(tmp_path: Path) -> None:
    solution = SOLUTION.read_text(encoding="utf-8")
    (tmp_path / "raft.py").write_text(skeleton.generate(solution, "2C"), encoding="utf-8")
    red = {info.name for info, _ in failures_of(tmp_path, catalogue.tests("2C"))}
    assert red == {info.name for info in catalogue.tests("2C")}


def test_tests_that_run_only_in_the_simulator_are_named() -> None:
    """The handouts name the tests that run only in the simulator because they need exact moments. Those of lab 2C that have
    "crash_points" in their names are named together."""
    only = {lab: [info.name for info in catalogue.tests(lab) if "rpyc" not in info.networks] for lab in ("2C", "2D")}
    assert [name for name in only["2C"] if "crash_points" not in name and name not in text_of("2C")] == []
    assert all("simulator only" in " ".join(text_of(lab).split()) for lab, names in only.items() if names)


# Changes that remove from the reference what a student has not written yet after a step of a handout.
_NO_ENTRIES: list[Change] = [
    ("            self.unsaved_from = min(self.unsaved_from, index)\n            self._persist()\n", ""),
    ("        # region 2C: an entry that is not saved must not count for a majority\n        self._persist()\n", ""),
    ("            self.entries[first - self.base :] = [LogEntry(*entry) for entry in entries]\n", ""),
]
_NOT_SENT: list[Change] = [
    ("                    if self.next_index[server] <= self.base:\n", "                    if False:\n")
]
_NOT_RECEIVED: list[Change] = [("            whole = self._collect(args)\n", "            whole = None\n")]
_NOT_RESTORED: list[Change] = [
    ("        if self.base:\n            self.commit_index = self.base\n", "        if False:\n            pass\n")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lab", "step", "changes"),
    [
        ("2C", 1, _NO_ENTRIES),
        ("2D", 1, [*_NOT_SENT, *_NOT_RECEIVED, *_NOT_RESTORED]),
        ("2D", 2, [*_NOT_SENT, *_NOT_RECEIVED]),
        ("2D", 3, _NOT_SENT),
    ],
    ids=["2C-1", "2D-1", "2D-2", "2D-3"],
)
def test_a_step_needs_no_later_one(lab: str, step: int, changes: list[Change], tmp_path: Path) -> None:
    """The tests of a step pass with a reference that has only what a student has written after that step."""
    folder = broken(tmp_path, *changes)
    whole = FIRST_PAGES[lab].read_text(encoding="utf-8").partition(f"\n## Step {step}:")[2].partition("\n## ")[0]
    wanted = re.findall(rf"^raftlab test {lab} -k (\w+)$", whole, re.MULTILINE)
    assert wanted
    tests = [info for name in wanted for info, _ in session.plan(lab, "sim", [name])]
    assert [(info.name, failure.text) for info, failure in failures_of(folder, tests)] == []


@pytest.mark.parametrize("lab", ["2C", "2D"])
def test_every_command_of_a_step_runs_a_test(lab: str) -> None:
    """Not every test needs to be named in a step, because the last step runs all tests of the lab."""
    text = FIRST_PAGES[lab].read_text(encoding="utf-8")
    parts = re.findall(rf"^raftlab test {lab} -k (\w+)$", text, re.MULTILINE)
    assert parts
    assert all(session.plan(lab, "sim", [part]) for part in parts)


# --- tables and pictures ---


def test_the_relations_between_a_log_and_a_snapshot() -> None:
    """Each row of the handout's table follows from the rule for snapshots, and the rows are those of the test."""
    tree = ast.parse(inspect.getsource(lab_2d.test_log_meets_snapshot))
    tables = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "rows"
    ]
    (table,) = tables
    assert isinstance(table, ast.Tuple)
    tested = [ast.literal_eval(row)[0] for row in table.elts]
    lines = text_of("2D").partition("<!-- relations -->\n```\n")[2].partition("```")[0].splitlines()
    assert lines[0].split() == ["index", *"123456", "afterwards"]
    table = [re.split(r" {2,}", line.strip()) for line in lines[1:] if line]
    ((_, snapshot), *rows) = table
    assert [name for name, _, _ in rows] == tested
    covered, term = len(snapshot.split()), snapshot.split()[-1]
    for name, before, after in rows:
        log = before.split()
        cut = log.count("#") + 1 if "#" in log else 0
        if cut >= covered:
            expected = log  # the snapshot is older than what the server has
        elif len(log) >= covered and log[covered - 1] == term:
            expected = [*snapshot.split(), *log[covered:]]
        else:
            expected = snapshot.split()
        assert after.split() == expected, name


def test_the_picture_of_a_cut_log() -> None:
    """The handout's picture shows the same log before and after a cut: what the snapshot covers is gone, and `base` and the
    term of the entry at `base` stand in for it."""
    picture = re.findall(
        r"^(before|after) +base (\d) +entries +(\d) \| ([\d ]+?) +\(", section("2D", "The log is cut"), re.M
    )
    ((_, zero, none, before), (_, base, term, after)) = picture
    log = before.split()
    assert (zero, none) == ("0", "0")
    assert term == log[int(base) - 1]
    assert after.split() == log[int(base) :]
    assert f"(the first is index {int(base) + 1})" in section("2D", "The log is cut")


def test_the_limits_of_2d_are_those_of_the_suite() -> None:
    rows = dict(re.findall(r"^\| (\w[\w ]+) \| ([\d,]+) \|$", section("2D", "Step 6: everything"), re.MULTILINE))
    assert list(rows.values()) == [
        f"{scripted_leader.CHUNK:,}",
        f"{lab_2d.MAX_STATE_BYTES:,}",
        f"{lab_2d.CATCH_UP_LIMIT:.0f}",
    ]
    text = SKELETON.read_text(encoding="utf-8")
    assert f"`SNAPSHOT_CHUNK = {scripted_leader.CHUNK}`" in text_of("2D")
    assert f"\nSNAPSHOT_CHUNK = {scripted_leader.CHUNK}\n" in text


def test_loading_nothing_raises_as_the_handout_says() -> None:
    """The handout says that json and pickle raise an exception for `b""`, which means that nothing was saved."""
    quoted = {"json": json.loads, "pickle": pickle.loads}
    for name, loads in quoted.items():
        assert f'`{name}.loads(b"")`' in text_of("2C")
        with pytest.raises((ValueError, EOFError)):
            loads(b"")
