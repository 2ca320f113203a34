"""Tests of reading rubrics: what they may contain, and the messages about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade import rubric
from raftgrade.cli import main
from raftgrade.rubric import BadRubric, Hidden, Late, Rubric

TESTS = {"2A": ["first", "second"], "2B": ["third"]}


def error(text: str) -> str:
    with pytest.raises(BadRubric) as caught:
        rubric.parse(text, "r.toml", TESTS)
    return str(caught.value)


def test_the_default_rubric_is_used_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert rubric.default() == Rubric()
    assert main(["rubric"]) == 0
    assert capsys.readouterr().out == rubric.default_text()


def test_the_settings_in_the_default_rubrics_comments_are_valid() -> None:
    offered = [
        line.removeprefix("# ")
        for line in rubric.default_text().splitlines()
        if line.startswith(("# [", "# points", "# needs", "# rule", "# rpcs", "# lab_s", "# bytes"))
    ]
    text = "\n".join(offered).replace("initial_election", "first")
    limits, _, rest = text.partition("[labs")
    read = rubric.parse(f"[limits]\n{limits}\n[labs{rest}", "r.toml", TESTS)
    assert (read.limits.rpcs, read.limits.lab_s, read.limits.bytes) == (5000, 60, 2_000_000)
    assert (read.labs["2B"].needs, read.labs["2B"].points, read.rule_for("2B", "third")) == (
        ["2A"],
        100,
        "proportional",
    )
    assert (read.tests["first"].points, read.limits_for("first").rpcs, read.limits_for("second").rpcs) == (5, 200, 5000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rule = ", "r.toml: expected TOML; Invalid value (at end of document)"),
        ("x = 1", "r.toml line 1, x: there is no key 'x' here; the keys here are rule, curve, weights, limits, late, "
         "hidden, races, labs, tests"),
        ("[late]\n\nper_day = 3", "r.toml line 3, late.per_day: there is no key 'per_day' here (did you mean "
         "'percent_a_day'?); the keys here are "
         "percent_a_day, grace_hours, most_percent"),
        ('[late]\npercent_a_day = "ten"', "r.toml line 2, late.percent_a_day: expected a number, seen a text"),
        ("[late]\npercent_a_day = 120", "r.toml line 2, late.percent_a_day: expected a number <= 100.0"),
        ('rule = "allornothing"', "r.toml line 1, rule: expected one of all-or-nothing, proportional, curve, not "
         "'allornothing'"),
        ("rul = 'curve'", "r.toml line 1, rul: there is no key 'rul' here (did you mean 'rule'?); the keys here are rule, "
         "curve, weights, limits, late, hidden, races, labs, tests"),
        ("[labs.2A]\nruel = 'curve'", "r.toml line 2, labs.2A.ruel: there is no key 'ruel' here (did you mean 'rule'?); the "
         "keys here are points, needs, needs_share, rule"),
        ("curve = [[0, 0.5], [0.5, 0.2], [1, 1]]", "r.toml line 1, curve: expected shares that never fall as the pass rate "
         "grows: [[0, 0], [0.9, 0.5], [1, 1]]"),
        ("[late]\npercent_a_day = 0.1", "r.toml line 2, late.percent_a_day: expected a percentage, such as 10, not a share "
         "(0.1)"),
        ("[late]\nmost_percent = 0.5", "r.toml line 2, late.most_percent: expected a percentage, such as 50, not a share "
         "(0.5)"),
        ("curve = [[0, 0], [0.5, 1]]", "r.toml line 1, curve: expected pass rates that grow from 0 to 1, each with its "
         "share: [[0, 0], [0.9, 0.5], [1, 1]]"),
        ("weights = { lan = 1 }", "r.toml line 1, weights.lan: expected sim or rpyc, not 'lan'"),
        ("[weights]\nsim = 0", "r.toml line 1, weights: expected a weight above 0 for at least one network"),
        ("[hidden]\nruns = 5\nsecret = 'abc'", "r.toml line 3, hidden.secret: expected at least 8 characters that nobody "
         "can guess"),
        ("[labs.9Z]\npoints = 1", "r.toml line 1, labs.9Z: there is no lab '9Z'; the labs are: 2A, 2B"),
        ("[labs.2A]\nneeds = ['2B']", "r.toml line 2, labs.2A.needs: expected labs that come before 2A (none), not '2B'"),
        ("[tests.fourth]\npoints = 1", "r.toml line 1, tests.fourth: no lab has a test called 'fourth'; `raftlab labs` "
         "lists them"),
        ("[tests.first]\npoints = 5\n[tests.second]\npoints = -1", "r.toml line 4, tests.second.points: expected a number "
         ">= 0.0"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line_and_key(text: str, words: str) -> None:
    assert error(text) == words


def test_files_that_are_no_rubric_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    for name, words in [
        ("r.toml", f"{tmp_path}/r.toml: expected TOML, which is UTF-8 text; this is not"),
        ("none", f"the rubric {tmp_path}/none cannot be read: No such file or directory"),
    ]:
        assert main(["run", str(tmp_path), "--rubric", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err == f"raftgrade: {words}\n"


def test_hidden_seeds_are_the_same_for_all_and_far_from_those_in_use() -> None:
    first, end = Hidden(5, "correct horse").seeds()
    assert (first, end) == Hidden(5, "correct horse").seeds()
    assert end - first == 5
    assert 1 << 40 <= first < 1 << 53
    assert Hidden(5, "battery staple").seeds()[0] != first
    assert Rubric(hidden=Hidden(5, "correct horse")).public().hidden == Hidden(5, "")


@pytest.mark.parametrize(
    ("days", "share"), [(0, 0), (0.04, 0), (0.05, 0.1), (1.04, 0.1), (1.05, 0.2), (3, 0.3), (99, 0.5)]
)
def test_the_share_that_late_days_leave(days: float, share: float) -> None:
    assert Late(percent_a_day=10, grace_hours=1, most_percent=50).share(days) == pytest.approx(share)
