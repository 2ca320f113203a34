"""Tests of what a grading runs and when, with fake jobs: required labs, sequential tests, retries and hidden seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raftgrade import grade
from raftgrade.cli import Tools, main
from raftgrade.store import read
from raftlab.sandbox.levels import NONE
from tests.grader.fakes import FakeCommands, FakeTest, submission

LADDER = (
    FakeTest("2A", "first", "first leader", 10, ("sim",)),
    FakeTest("2A", "second", "second leader", 5, ("sim",)),
    FakeTest("2B", "third", "a log", 20, ("sim", "rpyc")),
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tools() -> Tools:
    return Tools(FakeCommands(), lambda lab: [test for test in LADDER if test.lab == lab], lambda asked, trusted: NONE)


def run(scripts: dict[str, dict[str, Any]], *arguments: str, rubric: str = "", jobs: int = 2) -> tuple[int, Tools]:
    for name, script in scripts.items():
        submission(Path("class"), name, script)
    Path("r.toml").write_text(rubric)
    made = tools()
    options = ["run", "class", "--rubric", "r.toml", "--jobs", str(jobs), *arguments]
    return main(options, made), made


def results(name: str = "alice") -> dict[str, Any]:
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    assert report["complete"]
    (result,) = [item for item in report["submissions"] if item["name"] == name]
    return {test["name"]: test for test in result["tests"]} | {"": result}


def sim(test: dict[str, Any]) -> dict[str, Any]:
    return next(network for network in test["networks"] if network["network"] == "sim" and not network["hidden"])


def test_a_lab_starts_after_the_lab_that_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    code, made = run(
        {"alice": {}, "bob": {"second/1": "fail"}}, "--runs", "3", rubric="[labs.2B]\nneeds = ['2A']", jobs=1
    )
    assert code == 1
    assert isinstance(made.commands, FakeCommands)
    assert [sorted(tests) for tests, _ in made.commands.started] == [
        ["first", "second"], ["third"], ["third"], ["first", "second"]
    ]  # fmt: skip
    assert results()["third"]["points"] == 20
    bob = results("bob")
    assert (bob["third"]["state"], bob["third"]["networks"][0]["runs"], bob[""]["points"]) == ("skipped", 0, 10)
    out = capsys.readouterr().out
    assert "Lab 2B: skipped: it needs 15 of 15 points in 2A, and 2A has 10\n" in out


def test_until_sure_stops_each_test_once_its_verdict_is_sure() -> None:
    runs = {"first": "pass", "second/3": "fail", "third/2": "fail", "third/3": "fail"}
    code, _ = run({"alice": runs}, "--until-sure", "good=.99,bad=.90,max=80")
    assert code == 1
    result = results()
    assert [(sim(result[name])["verdict"], sim(result[name])["runs"]) for name in ("first", "second", "third")] == [
        ("reliable", 32),
        ("reliable", 64),
        ("unreliable", 8),
    ]
    assert [result[name]["points"] for name in ("first", "second", "third")] == [10, 5, 0]
    assert all(sim(result[name])["runs"] == sum(sim(result[name])[k] for k in ("passes", "failures")) for name in runs
               if "/" not in name)  # fmt: skip


def test_a_finished_submission_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a job's last record and its end, the report is saved and finished submissions are spilled to disk."""
    monkeypatch.setattr(grade, "SAVE_S", -10.0)
    scripts = {"alice": {"*": "fail"}, "bob": {}}
    code, made = run(scripts, "--until-sure", "max=16", "--labs", "2A", jobs=1)
    assert code == 1
    assert isinstance(made.commands, FakeCommands)
    assert len(made.commands.started) == 3  # alice: one batch; bob: two
    assert Path("raftgrade-out/records.jsonl").read_text().count("\n") == 2 * 8 + 2 * 16


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_number_of_jobs_changes_no_mark(jobs: int) -> None:
    scripts = {"alice": {"second/9": "fail"}, "bob": {"first/4": "error", "third": "fail"}}
    rubric = (
        "rule = 'proportional'\n[labs.2B]\nneeds = ['2A']\nneeds_share = 0.9\n[hidden]\nruns = 2\nsecret='12345678'"
    )
    run(scripts, "--until-sure", "max=24", rubric=rubric, jobs=jobs)
    report = read(Path("raftgrade-out"))
    assert [[(test.points, test.state) for test in each.tests] for each in report.submissions] == [
        [(10, "judged"), (pytest.approx(5 * 25 / 26, abs=1e-4), "judged"), (20, "judged")],
        [(10, "judged"), (5, "judged"), (0, "judged")],
    ]


def test_a_run_that_could_not_be_judged_is_retried_in_its_own_job(capsys: pytest.CaptureFixture[str]) -> None:
    code, made = run({"alice": {"first/1": "error", "second/2": "error"}}, "--runs", "3", "--labs", "2A", jobs=1)
    assert code == 2
    assert isinstance(made.commands, FakeCommands)
    assert made.commands.started == [(["first", "second"], (0, 3)), (["first"], (1, 2)), (["second"], (2, 3))]
    assert results()[""]["points"] == 15
    assert "first      10/10  2/2 [.16–1] ?1" in capsys.readouterr().out


def test_a_second_attempt_that_works_is_counted_and_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _ = run({"alice": {"first/1": "error-once"}}, "--runs", "3", "--labs", "2A")
    assert code == 0
    assert sim(results()["first"])["retried"] == 1
    assert "first      10/10  3/3 [.29–1] ↻1" in capsys.readouterr().out
    assert Path("raftgrade-out/records.jsonl").read_text().count("\n") == 7


def test_hidden_seeds_are_run_and_not_shown_to_students(capsys: pytest.CaptureFixture[str]) -> None:
    rubric = "[hidden]\nruns = 2\nsecret = 'nobody knows'"
    assert run({"alice": {}}, "--runs", "2", "--labs", "2A", "--network", "sim", rubric=rubric)[0] == 0
    text = Path("raftgrade-out/report.json").read_text()
    assert "nobody knows" not in text
    first = json.loads(text)["settings"]["hidden"][0]
    assert [network["seeds"] for network in results()["first"]["networks"]] == [[0, 2], [first, first + 2]]
    assert "test      points  sim          hidden       " in capsys.readouterr().out
