"""Points under a rubric; no fault of the machine costs any."""

from __future__ import annotations

import pytest

from raftgrade import marks, rubric
from raftgrade.marks import BadLate, on_curve, read_late
from raftgrade.plan import Expected, Settings
from raftgrade.results import Report, SubmissionResult, exit_code
from raftgrade.stats import Sequential
from raftgrade.tally import RunEntry, Tally, blank
from raftlab.runs.record import Outcome
from tests.grader.fakes import record

TESTS = [
    Expected("2A", "first", "first", 10, ["sim", "rpyc"]),
    Expected("2A", "second", "second", 5, ["sim"]),
    Expected("2B", "third", "third", 20, ["sim"]),
]


def graded(text: str, runs: dict[str, str], sim: int = 10, until: Sequential | None = None) -> Report:
    """The report of one submission. ``runs`` maps a test (or test@rpyc) to a letter for each of its runs."""
    settings = Settings(
        labs=["2A", "2B"], networks=["sim", "rpyc"], runs={"sim": sim, "rpyc": 1}, seed=0, jobs=1, until=until
    )
    report = Report(
        tool="t",
        started="2026-11-21T00:00:00",
        settings=settings,
        rubric=rubric.parse(text, "r.toml", {"2A": ["first", "second"], "2B": ["third"]}),
        submissions=[blank("alice", "alice", "alice", TESTS, settings)],
    )
    tally = Tally(report)
    words: dict[str, Outcome] = {"+": "passed", "-": "failed", "?": "error"}
    for test in TESTS:
        for network in test.networks:
            letters = runs.get(
                test.name if network == "sim" else f"{test.name}@{network}", "+" * settings.runs[network]
            )
            for seed, letter in enumerate(letters):
                more = {"lab": test.lab, "network": network, "rpcs": 100 * (seed + 1), "lab_s": 1.0}
                assert tally.add(RunEntry("alice", record(test.name, seed, words[letter], **more)))
    return tally.update_report(True, 1.0)


def alice(text: str, runs: dict[str, str], **more: int) -> SubmissionResult:
    return graded(text, runs, **more).submissions[0]


def points(submission: SubmissionResult) -> list[float]:
    return [test.points for test in submission.tests]


@pytest.mark.parametrize(
    ("text", "runs", "earned"),
    [
        ("", {}, [10, 5, 20]),
        ("", {"first": "+++++++++-"}, [0, 5, 20]),
        ("rule = 'proportional'", {"second": "+++++++++-"}, [10, 4.5, 20]),
        ("rule = 'proportional'", {"first": "+++++-----"}, [(3 * 0.5 + 1) / 4 * 10, 5, 20]),
        ("rule = 'proportional'", {"first@rpyc": "-"}, [7.5, 5, 20]),
        ("rule = 'proportional'\n[weights]\nsim = 1", {"first@rpyc": "-"}, [10, 5, 20]),
        ("rule = 'curve'\ncurve = [[0, 0], [0.8, 0.4], [1, 1]]", {"second": "+++++++++-"}, [10, 3.5, 20]),
        ("[labs.2A]\npoints = 30", {}, [20, 10, 20]),
        ("[tests.third]\npoints = 7\nrule = 'proportional'", {"third": "+-+-+-+-+-"}, [10, 5, 3.5]),
        ("[limits]\nrpcs = 954", {}, [5, 2.5, 10]),
        ("[limits]\nrpcs = 955", {}, [10, 5, 20]),
        ("[tests.second]\nlab_s = 0.5\nkeep = 0", {}, [10, 0, 20]),
    ],
)
def test_points(text: str, runs: dict[str, str], earned: list[float]) -> None:
    assert points(alice(text, runs)) == pytest.approx(earned)


def test_an_exceeded_limit_is_noted() -> None:
    assert alice("[limits]\nrpcs = 500\nkeep = 0.25", {}).tests[1].notes == [
        "expected at most 500 RPCs in 95 % of runs, saw 955: the test keeps 25% of its points"
    ]


def test_a_lab_is_skipped_with_a_reason() -> None:
    text = "[labs.2B]\nneeds = ['2A']"
    submission = alice(text, {"second": "+++++++++-", "third": ""})
    assert [test.state for test in submission.tests] == ["judged", "judged", "skipped"]
    assert submission.tests[2].notes == ["skipped: it needs 15 of 15 points in 2A, and 2A has 10"]
    assert (submission.state, submission.points, submission.max_points) == ("graded", 10, 35)
    assert submission.tests[2].networks[0].runs == 0
    assert not submission.clean
    enough = alice("[labs.2B]\nneeds = ['2A']\nneeds_share = 0.66", {"second": "+++++++++-"})
    assert points(enough) == [10, 0, 20]


@pytest.mark.parametrize("rule", ["all-or-nothing", "proportional", "curve"])
@pytest.mark.parametrize("letters", ["+++++++++?", "?????+++++"])
def test_a_fault_of_the_machine_costs_nothing(rule: str, letters: str) -> None:
    assert points(alice(f"rule = '{rule}'", {"first": letters, "second": letters})) == [10, 5, 20]


def test_open_points_cause_no_lab_to_be_skipped() -> None:
    submission = alice("[labs.2B]\nneeds = ['2A']", {"second": "??????++++"})
    assert [test.state for test in submission.tests] == ["judged", "open", "judged"]
    assert (submission.points, submission.open_points, submission.final) == (30, 5, False)
    assert submission.tests[1].notes == ["open: 6 of 10 runs could not be judged; run raftgrade again"]
    assert alice("", {"first@rpyc": "?"}).open_points == 10


def test_the_verdict_of_a_sequential_test_counts() -> None:
    until = Sequential(0.99, 0.90, 80)
    report = graded("", {"first": "+" * 32, "second": "+" * 16 + "-" + "+" * 47, "third": "+-+-++++"}, 80, until)
    (submission,) = report.submissions
    assert [test.networks[0].verdict for test in submission.tests] == ["reliable", "reliable", "unreliable"]
    assert [test.networks[0].runs for test in submission.tests] == [32, 64, 8]
    assert points(submission) == [10, 5, 0]
    assert submission.state == "graded"
    assert exit_code(report) == 1
    short = Sequential(0.99, 0.90, 20)
    (unsure,) = graded("", {"first": "+" * 20, "second": "+" * 19 + "-", "third": "+" * 20}, 20, short).submissions
    assert [test.networks[0].verdict for test in unsure.tests] == ["undecided"] * 3
    assert points(unsure) == [10, 0, 20]  # by what is more likely


def test_earlier_runs_that_are_not_needed_now_change_nothing() -> None:
    until = Sequential(0.99, 0.90, 80)
    (submission,) = graded("", {"first": "--------++", "second": "+" * 40, "third": "+" * 33}, 80, until).submissions
    assert [test.networks[0].runs for test in submission.tests] == [8, 32, 32]
    assert [test.networks[0].done for test in submission.tests] == [8, 32, 32]
    assert (submission.state, points(submission)) == ("graded", [0, 5, 20])
    skipped = alice("[labs.2B]\nneeds = ['2A']", {"second": "+++++++++-", "third": "+++"})
    assert (skipped.state, skipped.tests[2].state, skipped.points) == ("graded", "skipped", 10)


def test_late_marks_and_other_marks_for_the_same_runs() -> None:
    report = graded("[late]\npercent_a_day = 10", {"first": "+++++++++-"})
    submission = report.submissions[0]
    submission.late_days = 1.5
    marks.mark(report)
    assert (submission.points, submission.penalty) == (20, 5)
    report.rubric = rubric.parse("rule = 'proportional'", "r.toml")
    marks.mark(report)
    assert (submission.points, submission.penalty) == (pytest.approx(34.25), 0)


def test_the_curve_is_straight_between_its_points() -> None:
    curve = ((0.0, 0.0), (0.5, 0.5), (1.0, 0.8))
    assert [on_curve(curve, rate) for rate in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.25, 0.5, 0.65, 0.8])


def test_the_list_of_the_late() -> None:
    assert read_late("Submission,Days\nalice,1.5\n", "l.csv", ["alice"]) == {"alice": 1.5}
    assert read_late("\ufeffsubmission,hours\nalice,36\n", "l.csv", ["alice"]) == {"alice": 1.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "l.csv: expected a first line with submission,days or submission,hours; saw nothing"),
        ("name,days\n", "l.csv: expected a first line with submission,days or submission,hours; saw name, days"),
        ("submission,days\nbob,1\n", "l.csv line 2: there is no submission 'bob'"),
        ("submission,days\nalice,soon\n", "l.csv line 2: expected days, a number of 0 or more, not 'soon'"),
        ("submission,hours\nalice,-1\n", "l.csv line 2: expected hours, a number of 0 or more, not '-1'"),
    ],
)
def test_a_bad_list_of_the_late(text: str, words: str) -> None:
    with pytest.raises(BadLate) as caught:
        read_late(text, "l.csv", ["alice"])
    assert str(caught.value) == words
