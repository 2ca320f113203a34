"""Tests of counting records: the report that results from them, and its exit code."""

import msgspec
import pytest

from raftgrade.plan import Expected, Settings
from raftgrade.results import Problem, Report, exit_code, passed
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally, blank
from raftlab.explain.failure import Failure
from raftlab.explain.races import Finding
from tests.grader.fakes import record

TESTS = [
    Expected("2A", "first", "first leader", 10, ["sim", "rpyc"]),
    Expected("2A", "second", "second", 5, ["sim"]),
]


def plan(*names: str) -> Report:
    settings = Settings(labs=["2A"], networks=["sim", "rpyc"], runs={"sim": 2, "rpyc": 1}, seed=0, jobs=2)
    return Report(
        tool="raftgrade test",
        started="2026-11-21T00:00:00+00:00",
        settings=settings,
        submissions=[blank(name, name, name, TESTS, settings) for name in names or ("alice",)],
    )


def all_passed(name: str = "alice") -> list[Entry]:
    runs = [record("first", seed, lab_s=10.0 + seed, rpcs=100 + 50 * seed, wall_s=0.5) for seed in (0, 1)]
    runs += [record("second", seed) for seed in (0, 1)]
    runs += [record("first", 0, network="rpyc")]
    return [RunEntry(name, run) for run in runs]


def fold(entries: list[Entry], *names: str, complete: bool = True) -> Report:
    tally = Tally(plan(*names))
    for entry in entries:
        assert tally.add(entry)
    return tally.update_report(complete, 12.3456)


def test_a_clean_submission() -> None:
    report = fold(all_passed())
    (alice,) = report.submissions
    assert (alice.state, alice.points, alice.max_points, alice.clean) == ("graded", 15, 15, True)
    sim, rpyc = alice.tests[0].networks
    assert (sim.runs, sim.passes, sim.failures, sim.errors, sim.seeds) == (2, 2, 0, 0, (0, 2))
    assert sim.interval == (pytest.approx(0.1581, abs=1e-4), 1.0)
    assert sim.lab_s is not None
    assert (sim.lab_s.p50, sim.lab_s.p95) == (10.5, 10.95)
    assert sim.rpcs is not None
    assert (sim.rpcs.p50, sim.wall_s) == (125.0, 1.0)
    assert (rpyc.runs, rpyc.passes, rpyc.bad) == (1, 1, [])
    assert (report.planned, report.done, report.seconds) == (5, 5, 12.346)
    assert exit_code(report) == 0


def test_one_failed_run_costs_the_tests_points_and_no_other() -> None:
    entries = all_passed()
    entries[1] = RunEntry("alice", record("first", 1, "failed", replay="again"))
    report = fold(entries)
    (alice,) = report.submissions
    assert [(test.points, passed(test)) for test in alice.tests] == [(0, False), (5, True)]
    (bad,) = alice.tests[0].networks[0].bad
    assert (bad.seed, bad.outcome, bad.replay) == (1, "failed", "again")
    assert bad.failure.text == "the run did not pass, and its record does not say why"
    assert exit_code(report) == 1


def test_a_failure_on_the_real_network_costs_the_points() -> None:
    entries = all_passed()
    entries[4] = RunEntry("alice", record("first", 0, "failed", network="rpyc"))
    assert [test.points for test in fold(entries).submissions[0].tests] == [0, 5]


def test_an_error_is_no_failure_and_costs_nothing() -> None:
    entries = all_passed()
    entries[1] = RunEntry("alice", record("first", 1, "error"))
    report = fold(entries)
    sim = report.submissions[0].tests[0].networks[0]
    assert (sim.passes, sim.failures, sim.errors) == (1, 0, 1)
    assert sim.interval[1] == 1.0  # the interval of the one run that was judged
    assert sim.classes == {"machine": 1}
    assert report.submissions[0].tests[0].points == 10  # all judged runs have passed
    assert exit_code(report) == 2


def test_a_test_with_few_judged_runs_is_open() -> None:
    entries = all_passed()
    entries[0] = RunEntry("alice", record("first", 0, "error"))
    entries[1] = RunEntry("alice", record("first", 1, "error"))
    (alice,) = fold(entries).submissions
    assert (alice.points, alice.open_points, alice.max_points, alice.final) == (5, 10, 15, False)
    assert alice.tests[0].state == "open"
    assert alice.tests[0].notes == ["open: 2 of 2 runs could not be judged; run raftgrade again"]


def test_a_second_attempt_counts_only_after_an_unjudged_run() -> None:
    entries = [RunEntry("alice", record("first", 1, "error")), *all_passed()]
    (alice,) = fold(entries).submissions
    sim = alice.tests[0].networks[0]
    assert (alice.points, alice.final, sim.passes, sim.errors, sim.retried, sim.bad) == (15, True, 2, 0, 1, [])
    failed = [RunEntry("alice", record("first", 0, "error")), RunEntry("alice", record("first", 0, "failed"))]
    sim = fold(failed).submissions[0].tests[0].networks[0]
    assert (sim.failures, sim.errors, sim.retried) == (1, 0, 1)


@pytest.mark.parametrize(("kinds", "outcome"), [
    (("error", "error"), "failed"),
    (("error", "machine-busy"), "error"),
    (("machine-full", "error"), "error"),
    (("machine-busy", "machine-busy"), "error"),
])  # fmt: skip
def test_a_run_that_breaks_the_lab_twice_has_failed_unless_the_machine_is_to_blame(
    kinds: tuple[str, str], outcome: str
) -> None:
    tally = Tally(plan())
    for kind in kinds:
        failure = Failure(kind, "KeyError: 'vote_granted'")
        tally.add(RunEntry("alice", record("first", 1, "error", failure=failure)))
    (bad,) = tally.update_report(complete=False, seconds=1.0).submissions[0].tests[0].networks[0].bad
    assert bad.outcome == outcome
    assert (tally.done, tally.failed) == (1, int(outcome == "failed"))
    if outcome == "failed":
        text = "this run makes the lab itself fail, each time that it is performed: KeyError: 'vote_granted'"
        assert (bad.failure.kind, bad.failure.text) == ("host-died", text)


def test_a_failure_decides_the_exit_code_before_an_unjudged_run() -> None:
    entries = all_passed()
    entries[0] = RunEntry("alice", record("first", 0, "failed"))
    entries[1] = RunEntry("alice", record("first", 1, "error"))
    assert exit_code(fold(entries)) == 1


def test_a_missing_run_has_not_passed() -> None:
    report = fold(all_passed()[1:])
    (alice,) = report.submissions
    assert (alice.state, alice.clean, alice.tests[0].points) == ("running", False, 0)
    assert exit_code(report) == 2
    assert fold([]).submissions[0].state == "waiting"


def test_the_exit_code_of_an_incomplete_report() -> None:
    assert exit_code(fold(all_passed(), complete=False)) == 2


@pytest.mark.parametrize("state", ["refused", "unjudged"])
def test_a_refused_submission_earns_no_points(state: str) -> None:
    refused = msgspec.convert(
        {"kind": "refused", "submission": "bob", "state": state, "problems": [{"text": "no class Raft"}]},
        RefusalEntry,
    )
    report = fold([refused, *all_passed()], "alice", "bob")
    alice, bob = report.submissions
    assert (alice.state, alice.points) == ("graded", 15)
    assert (bob.state, bob.points, bob.max_points) == (state, 0, 15)
    assert bob.problems == [Problem("no class Raft")]
    assert report.planned == 5
    assert exit_code(report) == 2


def test_the_first_outcome_counts_and_unplanned_runs_do_not() -> None:
    tally = Tally(plan())
    assert tally.add(RunEntry("alice", record("first", 0, "failed")))
    assert not tally.add(RunEntry("alice", record("first", 0, "passed")))
    assert not tally.add(RunEntry("alice", record("first", 2)))
    assert not tally.add(RunEntry("alice", record("third", 0)))
    assert not tally.add(RunEntry("alice", record("second", 0, network="rpyc")))
    assert not tally.add(RunEntry("mallory", record("first", 1)))
    assert not tally.add(RefusalEntry("mallory", "refused", []))
    assert (tally.done, tally.failed) == (1, 1)


def test_a_report_is_the_same_after_encoding_and_decoding() -> None:
    report = fold([RunEntry("alice", record("first", 0, "failed", advice=["x", "x"]))])
    assert report.submissions[0].tests[0].advice == ["x"]
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_each_race_is_advice_in_the_first_test_that_shows_it() -> None:
    def found(test: str, seed: int, *keys: str) -> RunEntry:
        findings = [Finding("race", key, f"{key} in run {seed}") for key in keys]
        return RunEntry("alice", record(test, seed, findings=findings))

    entries = [found("first", 1, "a"), found("first", 0, "a", "b"), found("second", 0, "b", "c")]
    for order in (entries, entries[::-1]):
        first, second = fold(order).submissions[0].tests[:2]
        assert first.advice == ["races: a in run 0", "races: b in run 0"]
        assert second.advice == ["races: c in run 0"]
        assert (first.races, second.races) == (2, 1)
