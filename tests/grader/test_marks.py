"""Tests of points under a rubric, and that a fault of the machine costs no points."""

from __future__ import annotations

import pytest

from raftgrade import marks, rubric
from raftgrade.late import BadLate, read_late
from raftgrade.marks import on_curve
from raftgrade.plan import Expected, Settings
from raftgrade.results import Report, SubmissionResult, exit_code
from raftgrade.stats import Sequential
from raftgrade.students import Finder, Student
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
def test_points_for_the_outcomes_of_runs(text: str, runs: dict[str, str], earned: list[float]) -> None:
    assert points(alice(text, runs)) == pytest.approx(earned)


def test_an_exceeded_limit_is_noted() -> None:
    assert alice("[limits]\nrpcs = 500\nkeep = 0.25", {}).tests[1].notes == [
        "expected at most 500 RPCs in 95 % of runs, saw 955: the test keeps 25% of its points"
    ]


@pytest.mark.parametrize(("text", "earned"), [("", [10, 5, 20]), ("[races]\nkeep = 0.5", [5, 5, 10])])
def test_a_race_costs_what_the_rubric_says(text: str, earned: list[float]) -> None:
    report = graded(text, {})
    submission = report.submissions[0]
    for number in (0, 2):
        submission.tests[number].races = 2
    marks.mark(report)
    assert points(submission) == earned
    notes = ["2 races found: the test keeps 50% of its points"] if text else []
    assert [test.notes for test in submission.tests] == [notes, [], notes]


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


def test_open_points_are_not_earned_but_cause_no_lab_to_be_skipped() -> None:
    submission = alice("[labs.2B]\nneeds = ['2A']", {"second": "??????++++", "third": ""})
    assert [test.state for test in submission.tests] == ["judged", "open", "open"]
    assert (submission.points, submission.open_points, submission.final) == (10, 25, False)
    assert [test.notes for test in submission.tests[1:]] == [
        ["open: 6 of 10 runs could not be judged; run raftgrade again"],
        ["open: it needs 15 of 15 points in 2A, and 2A has 10, and 5 are open; run raftgrade again"],
    ]
    assert alice("", {"first@rpyc": "?"}).open_points == 10
    enough = alice("[labs.2B]\nneeds = ['2A']\nneeds_share = 0.66", {"second": "??????++++"})
    assert [test.state for test in enough.tests] == ["judged", "open", "judged"]


def test_a_test_that_fails_on_one_network_has_failed_whatever_the_other_does() -> None:
    for runs in ({"first": "-" * 10, "first@rpyc": "?"}, {"first": "?" * 10, "first@rpyc": "-"}):
        submission = alice("", runs)
        assert (submission.tests[0].state, submission.points, submission.open_points) == ("judged", 25, 0)
    assert alice("rule = 'proportional'", {"first": "-" * 10, "first@rpyc": "?"}).open_points == 10


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
    assert points(unsure) == [10, 0, 20]  # an undecided test counts as its more likely verdict


def test_earlier_runs_that_are_not_needed_now_change_nothing() -> None:
    until = Sequential(0.99, 0.90, 80)
    (submission,) = graded("", {"first": "--------++", "second": "+" * 40, "third": "+" * 33}, 80, until).submissions
    assert [test.networks[0].runs for test in submission.tests] == [8, 32, 32]
    assert [test.networks[0].done for test in submission.tests] == [8, 32, 32]
    assert (submission.state, points(submission)) == ("graded", [0, 5, 20])
    skipped = alice("[labs.2B]\nneeds = ['2A']", {"second": "+++++++++-", "third": "+++"})
    assert (skipped.state, skipped.tests[2].state, skipped.points) == ("graded", "skipped", 10)


def test_late_submissions_and_another_rubric_for_the_same_runs() -> None:
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


def late(text: str, taken: str = "percent_a_day = 10") -> dict[str, float]:
    settings = graded("", {}).settings
    people = [blank(name, name, name, TESTS, settings) for name in ("alice", "bob")]
    people[0].students = [Student(id="1", name="Alice Liddell", email="alice@x.org", group="team")]
    people[1].students = [Student(id="7", group="team")]
    find = Finder(people, lambda each: each.path).find
    return read_late(text, "l.csv", find, rubric.parse(f"[late]\n{taken}", "r.toml"))


def test_late_submissions_need_a_rule() -> None:
    assert late("id,days\n7,0\n", "") == {"bob": 0}
    with pytest.raises(BadLate) as caught:
        late("id,days\n7,2\n", "")
    assert str(caught.value) == (
        "l.csv names 1 late submission, but the rubric has no late penalty: set percent_a_day in its [late]"
    )


def test_the_list_of_late_submissions() -> None:
    assert late("Submission,Days\nalice,1.5\n") == {"alice": 1.5}
    assert late("\ufeffemail;hours\nALICE@x.org;36\n\n") == {"alice": 1.5}
    assert late('name,days\n"Liddell, Alice",2\n7,0\n') == {"alice": 2, "bob": 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "l.csv: expected a first line with submission,days or submission,hours; saw nothing"),
        ("mail,days\n", "l.csv: expected a first line with submission,days or submission,hours; saw mail, days"),
        ("submission,days\ncarol,1\n", "l.csv line 2: there is no submission 'carol'"),
        ("id,days\nteam,1\n", "l.csv line 2: 'team' may be any of these submissions: alice, bob"),
        ("id,days\nalice,1\nalice@X.org,1", "l.csv line 3: alice is in line 2, too"),
        (
            "submission,days\nalice,1,5\n",
            "l.csv line 2: there are more cells than columns: put a cell with a comma in quotes",
        ),
        ("submission,days\nalice,1_0\n", "l.csv line 2: expected days, a number of 0 or more, not '1_0'"),
        ("submission,days\nalice,soon\n", "l.csv line 2: expected days, a number of 0 or more, not 'soon'"),
        ("submission,hours\nalice,-1\n", "l.csv line 2: expected hours, a number of 0 or more, not '-1'"),
    ],
)
def test_mistakes_in_the_list_of_late_submissions(text: str, words: str) -> None:
    with pytest.raises(BadLate) as caught:
        late(text)
    assert str(caught.value) == words
