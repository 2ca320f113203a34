"""Tests of the matrix of rules: how it is read, what is reported as missing, and that nothing is missing from ours."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from raftgrade.cli import main
from raftgrade.proof import page, rules
from raftgrade.proof.bug_bank import BadBank, Bank
from raftgrade.proof.rules import Matrix, RuleRow
from raftlab import labs
from tests.conftest import ROOT
from tests.known_bugs import BANK, MATRIX

BUG = BANK.find("2A", "el-double-vote")
ROW = RuleRow("one vote", ("Figure 2",), "One vote a term.", ("2A",), BUG.id, BUG.catches[0].test)

# Sections of the handouts' details that state no rule, or only an optional one.
NO_RULES = {
    "lab-2a-details.md#messages",
    "lab-2b-details.md#the-list-and-its-indexes",
    "lab-2b-details.md#messages",
    "lab-2b-details.md#a-no-op-if-you-like",
    "lab-2c-details.md#why-one-appends",
}
BOXES = {
    "Figure 2, RequestVote": 2,
    "Figure 2, AppendEntries": 5,
    "Figure 2, All Servers": 2,
    "Figure 2, Followers": 2,
    "Figure 2, Candidates": 4,
    "Figure 2, Leaders": 4,
    "Figure 13, InstallSnapshot": 8,
}


def problems(*rows: RuleRow, lines: tuple[str, ...] = ()) -> list[str]:
    return rules.problems(Matrix(lines, rows), Bank([BUG]))


def test_a_complete_matrix_has_no_problems() -> None:
    assert problems(ROW, lines=("Figure 2",)) == []


def test_a_line_without_a_rule_is_reported() -> None:
    assert problems(ROW, lines=("Figure 2", "Figure 13")) == ["no rule has the source 'Figure 13'"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bug": "2a/none"}, "one vote: the bank has no bug '2a/none'"),
        ({"test": "no_test"}, "one vote: the file of the bug 2a/el-double-vote does not say that 'no_test' catches it"),
        (
            {"labs": ("2B",)},
            "one vote: its bug 2a/el-double-vote is tried in lab 2A, which is not one of the rule's labs",
        ),
        ({"labs": ("2A", "9Z")}, "one vote: there is no lab '9Z'"),
    ],
)
def test_a_rule_without_its_bug_or_test_is_reported(changes: dict[str, object], problem: str) -> None:
    assert problems(msgspec.structs.replace(ROW, **changes)) == [problem]


def test_a_rule_or_bug_with_two_rows_is_reported() -> None:
    assert problems(ROW, ROW) == ["the rule one vote has 2 rows", "the bug 2a/el-double-vote has 2 rows"]


def test_reading_a_file(tmp_path: Path) -> None:
    assert rules.read(tmp_path) == Matrix()
    file = tmp_path / rules.FILE
    file.write_text('[[rule]]\nid = "x"\n')
    with pytest.raises(BadBank, match=r"rules.toml: Object missing required field `source`"):
        rules.read(tmp_path)
    file.write_text("rule = [")
    with pytest.raises(BadBank, match=r"rules.toml: "):
        rules.read(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / rules.FILE).write_text("")
    with pytest.raises(BadBank, match=r"expected one rules.toml, but there are "):
        rules.read(tmp_path)


def test_a_page_without_a_matrix_is_an_error() -> None:
    assert page.rule_matrix(Matrix()) == "The bank has no matrix of rules."


# --- our own matrix ---


def test_nothing_is_missing_from_our_matrix() -> None:
    assert rules.problems(MATRIX, BANK) == []
    for row in MATRIX.rule:
        assert row.says.endswith(".")


def test_every_line_of_the_figures_is_in_our_matrix() -> None:
    numbered = {f"{box} {number}" for box, most in BOXES.items() for number in range(1, most + 1)}
    assert numbered <= set(MATRIX.lines)
    assert {source for row in MATRIX.rule for source in row.source} == set(MATRIX.lines)


def test_every_section_of_the_details_is_in_our_matrix() -> None:
    sections = set()
    for lab in labs.LABS:
        file = f"lab-{lab.lower()}-details.md"
        for line in (ROOT / "handouts" / file).read_text(encoding="utf-8").splitlines():
            if line.startswith("### "):
                anchor = re.sub(r"[^\w -]", "", line.removeprefix("### ").lower()).replace(" ", "-")
                sections.add(f"{file}#{anchor}")
    named = {row.handout for row in MATRIX.rule if row.handout}
    assert named <= sections
    assert sections - named - NO_RULES == set()


def test_the_command_prints_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proof", str(ROOT / "tests" / "bugs"), "--rules"]) == 0
    printed = capsys.readouterr()
    assert f"\n{MATRIX.rule[0].id} ({MATRIX.rule[0].source[0]})\n    {MATRIX.rule[0].says}\n" in printed.out
    assert printed.out.endswith(f"{rules.summary(MATRIX)}\n")
    assert printed.err == ""
