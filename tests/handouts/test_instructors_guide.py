"""Tests of the instructor's guide: its commands and links are valid, its figures are right, and its example of a test
passes."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest

from raftgrade import manual, options, rubric
from raftgrade.intake import submissions
from raftgrade.stats import clopper_pearson, until
from raftgrade.students import Finder
from raftlab import labs
from raftlab.suites import catalogue
from raftlab.suites.marking import SIM, StartCluster, points
from tests.conftest import SOLUTION, sim_cluster
from tests.handouts.test_handouts import _LINK, HANDOUTS, anchors

GUIDE = HANDOUTS / "instructors-guide.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def block(beginning: str) -> str:
    (found,) = [each for each in BLOCKS if each.startswith(beginning)]
    return str(found)


def test_its_commands_are_valid() -> None:
    lines = [line.strip().removeprefix("- run: ") for each in BLOCKS for line in each.splitlines()]
    lines += re.findall(r"`(raftgrade [^`]+)`", TEXT)
    shown = [line for line in lines if line.startswith("raftgrade ")]
    assert len(shown) > 14
    for line in shown:
        words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
        if (
            words != ["run"] and line != "raftgrade report --rubric"
        ):  # these two are named in a sentence, without their arguments
            options.parser().parse_args(words)


def test_its_links_are_valid() -> None:
    for link in _LINK.findall(TEXT):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = GUIDE.with_name(name) if name else GUIDE
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_its_example_of_manual_points_fits_its_class(tmp_path: Path) -> None:
    table = tmp_path / "class.csv"
    table.write_text(block("id,name"), encoding="utf-8")
    finder = Finder(submissions.find([table]).submissions, lambda each: each.where)
    tests = [test.name for test in catalogue.tests("2A")]
    given = manual.read(block("submission,test"), "guide", finder.find, tests)
    assert {name: len(marks) for name, marks in given.items()} == {"Ada Lovelace": 1, "Grace Hopper": 2, "Team 7": 1}


def test_its_rubric_is_valid() -> None:
    assert rubric.parse(block("[late]"), "guide").late.percent_a_day == 10
    assert rubric.parse(block("[hidden]"), "guide").hidden.runs == 10
    tests = {lab: [test.name for test in catalogue.tests(lab)] for lab in labs.LABS}
    text = '[labs.2B]\nneeds = ["2A"]\nneeds_share = 0.8\n[labs.2A]\npoints = 30'
    assert rubric.parse(text, "guide", tests).needs("2B") == ["2A"]
    for row in re.findall(r"^\| (`.*?`) \|", TEXT, re.MULTILINE):
        for words in re.findall(r"`([^`]+)`", row):
            name = words.split(" = ")[0]
            known = {
                *rubric.Rubric.__struct_fields__,
                *rubric.Limits.__struct_fields__,
                *rubric.LabRules.__struct_fields__,
                *rubric.Late.__struct_fields__,
            }
            assert name in known or name.startswith("["), name


@pytest.mark.parametrize(("runs", "percent"), [(20, 86), (50, 94), (100, 97), (299, 99)])
def test_its_confidence_figures_are_right(runs: int, percent: int) -> None:
    low = clopper_pearson(runs, runs, confidence=0.90)[
        0
    ]  # the lower end of a two-sided 90 % interval has a one-sided confidence of 95 %
    assert round(low * 100) == percent
    assert re.search(rf"^\| {runs}\b.* \| {percent} %", TEXT, re.MULTILINE)
    assert until("").verdict([True] * 31) == "reliable"


def test_its_example_is_a_test_that_the_reference_passes() -> None:
    example = textwrap.dedent(block("@points(5)"))
    names: dict[str, Any] = {"points": points, "StartCluster": StartCluster, "SIM": SIM}
    exec(compile(example, str(Path("guide")), "exec"), names)
    with sim_cluster(SOLUTION.parent, 5) as made:

        def start(servers: int) -> Any:
            assert servers == 5
            made.start_all()
            return made

        names["test_my_idea"](start)
