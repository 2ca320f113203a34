"""Tests of the rows of the handouts' tables "When it fails". raftlab describes each failure in a sentence. Each row stands
for the right sentences, every sentence has a row, and if a known bug causes the failure, the row names the bug's cause.

The sentences that the known bugs cause are taken from ``tests/snapshots/bugs.txt``, so these tests run no bug.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from raftlab.explain import symptoms
from raftlab.suites import catalogue
from tests import known_bugs
from tests.conftest import ROOT
from tests.handouts.test_handouts import says, templates

TABLE = """\
# Lab 2B: when a test is red

## When it fails

| you see | look for |
|---|---|
| `expected 'a' to be applied by 3 servers within 10 s, but it was not` | see [Nothing](#nothing) |
| `expected a leader within 5 s` in the test `late_vote` | the first; or the second. Or `None` is a third: [x](a.md#b) |
| `expected S0 to do it, …`, or `S1: … raised: …` | the same cause as in the row above |
| `expected a leader within 5 s` | this. [Terms](lab-2b-details.md#terms) |
| `expected a leader within 5 s, but S1, S2 refused it` | the voters |
| the same, and no RPCs | words of our own |

### Nothing

| you see | look for |
|---|---|
| `expected 12 bytes of [0, 1]` | `a \\| b` |

## Another section

| `expected nothing of this` | nothing |
"""


@pytest.fixture
def rows(tmp_path: Path) -> list[symptoms.Row]:
    path = tmp_path / "lab-2b-failures.md"
    path.write_text(TABLE, encoding="utf-8")
    return list(symptoms._rows_of(path))


def test_rows_are_read_from_a_page(rows: list[symptoms.Row]) -> None:
    assert [row.sentence for row in rows] == [
        "expected 'a' to be applied by 3 servers within 10 s, but it was not",
        "expected a leader within 5 s",
        "expected S0 to do it, …",
        "S1: … raised: …",
        "expected a leader within 5 s",
        "expected a leader within 5 s, but S1, S2 refused it",
        "expected 12 bytes of [0, 1]",
    ]
    assert [row.causes for row in rows] == [
        ("see Nothing",),
        *[("the first", "the second", "None is a third")] * 3,
        ("this",),
        ("the voters",),
        ("a | b",),
    ]
    assert [row.read for row in rows[:5]] == [
        "handouts/lab-2b-failures.md#nothing",
        *["handouts/a.md#b"] * 3,
        "handouts/lab-2b-details.md#terms",
    ]
    assert [row.tests for row in rows[:3]] == [frozenset(), frozenset({"late_vote"}), frozenset()]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("expected {'x': 1} to be applied by 1 server within 4 s, but it was not", 0),
        ("expected 0 to be applied by 3 servers within 10 s, but it was not: nobody took it", 0),
        ("expected 'a' to be applied by all within 10 s", None),
        ("expected S3 to do it, and more", 2),
        ("expected C1 to do it, and more", None),
        ("expected it to do it, and more", None),
        ("S4: Raft() raised: x", 3),
        ("expected a leader within 10 s, but S0 refused it", 5),
        ("expected a leader within 2.5 s, but there is none", 4),
        ("expected 1,200,000 bytes of [3]", 6),
        ("expected twelve bytes", None),
    ],
)
def test_a_row_is_found_for_a_sentence(
    rows: list[symptoms.Row], text: str, place: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symptoms, "rows", lambda: rows)
    assert symptoms.find("2B", "other", text) == (None if place is None else rows[place])


def test_a_row_may_be_for_one_test_and_is_used_in_its_lab_and_later(
    rows: list[symptoms.Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symptoms, "rows", lambda: rows)
    assert symptoms.find("2B", "late_vote", "expected a leader within 5 s, but S1 refused it") == rows[1]
    assert symptoms.find("2C", "other", "expected a leader within 5 s") == rows[4]
    assert symptoms.find("2A", "other", "expected a leader within 5 s") is None


# --- every sentence has a row ---


def sentences_of(path: Path) -> list[str]:
    """The sentences of failures in a source file, or their beginnings, with NUL in place of each value that is filled in at
    run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        if text.startswith("expected ") and len(text) > len("expected ") + 2:
            found.append(text)
    return found


PACKAGE = ROOT / "labs" / "raftlab"
SOURCES = [path for folder in ("suites", "harness", "referee") for path in sorted((PACKAGE / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_sentence_has_a_row(path: Path) -> None:
    beginnings = [row.sentence.partition("…")[0].rstrip(" :,") for row in symptoms.rows()]
    for sentence in sentences_of(path):
        shown = _pattern_of(sentence)
        filled = sentence.replace("\0", "7")
        assert any(shown.match(row.sentence) or row.pattern.match(filled) for row in symptoms.rows()) or any(
            begin and says(sentence, begin) for begin in beginnings
        ), f"no row of a handout's table fits {sentence!r}"


def _pattern_of(sentence: str) -> re.Pattern[str]:
    parts = re.split("(\0)", sentence.rstrip("\0 "))
    return re.compile("".join(".{1,160}?" if part == "\0" else re.escape(part) for part in parts))


def test_sentences_were_found() -> None:
    assert sum(len(sentences_of(path)) for path in SOURCES) > 400


@pytest.mark.slow
def test_raftlab_can_print_the_sentence_of_each_row() -> None:
    patterns = [
        (sentence.partition("\0")[0], _pattern_of(sentence)) for path in SOURCES for sentence in sentences_of(path)
    ]
    seen = (PACKAGE / "harness" / "observations.py").read_text(encoding="utf-8")
    for row in symptoms.rows():
        if row.sentence.startswith("…"):
            parts = [part.strip() for part in re.split(r"\bterms?\b|[^a-z, ]+", row.sentence)]
            assert any(len(part) > 6 and part in seen for part in parts), row.sentence
        elif row.sentence.startswith("expected "):
            begins = [pattern for begin, pattern in patterns if row.sentence.startswith(begin)]
            begin = row.sentence.partition("…")[0].rstrip(" :,(")
            # A suite may add what follows a comma.
            named = [begin, *(begin[: comma.start()] for comma in re.finditer(", ", begin))]
            said_there = any(pattern.match(row.sentence) for pattern in begins)
            assert said_there or any(says(template, text) for template in templates() for text in named), row.sentence


def test_a_cause_can_be_understood_without_the_table() -> None:
    for row in symptoms.rows():
        for cause in row.causes:
            assert not re.match(r"see |as in the|the same cause", cause), (row.sentence, cause)
            assert not re.search(r"\brows?\b", cause.replace("in a row", "")), (row.sentence, cause)


# --- the known bugs ---

CAUSES = tomllib.loads((ROOT / "tests" / "bugs" / "causes.toml").read_text(encoding="utf-8"))


SAID = known_bugs.recorded()


def test_the_cause_of_every_known_bug_is_written_down() -> None:
    assert list(CAUSES) == list(SAID) == known_bugs.snapshot_titles()


@pytest.mark.parametrize("bug", CAUSES)
def test_a_failure_names_the_cause_of_a_known_bug(bug: str) -> None:
    test, sentence = SAID[bug]
    row = symptoms.find(catalogue.find_test(test).lab, test, sentence)
    assert row is not None, f"no row fits {sentence!r}"
    assert any(CAUSES[bug] in cause for cause in row.causes), row.causes


SHOWN: dict[str, str] = known_bugs.ROWS["shown"]
SAID_OF_ROWS = known_bugs.recorded(known_bugs.ROWS_SNAPSHOT)


def _row_of(test: str, sentence: str) -> symptoms.Row | None:
    return symptoms.find(catalogue.find_test(test).lab, test, sentence)


def test_the_failures_of_the_rows_are_recorded() -> None:
    assert list(SHOWN) == list(SAID_OF_ROWS), "run python -m tests.update tests/snapshots/rows.txt"


@pytest.mark.parametrize("title", SHOWN)
def test_a_further_failure_names_the_cause_of_its_bug(title: str) -> None:
    row = _row_of(*SAID_OF_ROWS[title])
    assert row is not None, f"no row fits {SAID_OF_ROWS[title][1]!r}"
    assert any(SHOWN[title] in cause for cause in row.causes), row.causes


GENERAL: dict[str, list[str]] = known_bugs.ROWS["general"]


@pytest.mark.parametrize("name", GENERAL)
def test_a_general_row_names_the_cause_of_a_bug_with_a_row_of_its_own(name: str) -> None:
    (row,) = (each for each in symptoms.rows() if known_bugs.name_of(each) == name)
    title, words = GENERAL[name]
    test, sentence = {**SAID, **SAID_OF_ROWS}[title]
    assert row.lab <= catalogue.find_test(test).lab
    assert not row.tests or test in row.tests
    assert row.pattern.match(sentence), sentence
    assert any(words in cause for cause in row.causes), row.causes


def test_a_known_bug_shows_every_row() -> None:
    """A row that raftlab shows for no known bug must be in ``tests/bugs/rows.toml``, with the reason."""
    rows = {known_bugs.name_of(row) for row in symptoms.rows()}
    shown = {
        known_bugs.name_of(row) for said in (SAID, SAID_OF_ROWS) for each in said.values() if (row := _row_of(*each))
    }
    exempt = [name for group in known_bugs.ROWS["none"] for name in group["rows"]]
    listed = [*GENERAL, *exempt]
    assert len(listed) == len(set(listed))
    assert not set(listed) - rows, "rows.toml names rows that are in no handout"
    assert not set(listed) & shown, "a bug shows these rows, so rows.toml must not list them"
    assert not rows - shown - set(listed), "no bug shows these rows"
    assert all(len(group["why"]) > 20 for group in known_bugs.ROWS["none"])


def test_each_further_failure_is_needed() -> None:
    """For each failure under ``[shown]`` in ``tests/bugs/rows.toml``, raftlab shows a row that it shows for no other
    failure, or an entry under ``[general]`` refers to the failure."""
    shown = {known_bugs.name_of(row) for each in SAID.values() if (row := _row_of(*each))}
    needed = {title for title, _ in GENERAL.values()}
    for title, said in SAID_OF_ROWS.items():
        row = _row_of(*said)
        assert row is not None
        name = known_bugs.name_of(row)
        assert title in needed or name not in shown, f"a failure other than {title} shows this row, too: {name}"
        shown.add(name)
