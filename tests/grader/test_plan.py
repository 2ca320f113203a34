"""Tests of the plan of a grading run: which runs are expected, and how they are split into jobs."""

from collections.abc import Sequence

import pytest

from raftgrade.plan import RUNS_IN_A_JOB, JobTarget, Settings, TestRun, expected_tests, runs_of, split_into_jobs
from tests.grader.fakes import FakeTest

TESTS = [
    FakeTest("2A", "one", "first", 10),
    FakeTest("2A", "two", "second", 10, ("sim",)),
    FakeTest("2B", "three", "third", 5),
]


def settings(runs: dict[str, int], seed: int = 0) -> Settings:
    return Settings(labs=["2A", "2B"], networks=list(runs), runs=runs, seed=seed, jobs=2)


def by_lab() -> dict[str, list[FakeTest]]:
    return {lab: [test for test in TESTS if test.lab == lab] for lab in ("2A", "2B")}


def test_a_test_runs_on_the_networks_that_it_supports() -> None:
    tests, left_out = expected_tests(settings({"sim": 20, "rpyc": 2}), by_lab())
    assert [(test.name, test.networks) for test in tests] == [
        ("one", ["sim", "rpyc"]),
        ("two", ["sim"]),
        ("three", ["sim", "rpyc"]),
    ]
    assert left_out == []


def test_a_test_of_another_network_is_left_out_and_named() -> None:
    tests, left_out = expected_tests(settings({"rpyc": 2}), by_lab())
    assert [test.name for test in tests] == ["one", "three"]
    assert [(item.name, item.networks) for item in left_out] == [("two", ["sim"])]


TARGET = JobTarget("alice", "alice", "a")


@pytest.mark.parametrize("runs", [1, 2, 3, 7, 20, 21, 40, 41, 100])
def test_the_jobs_cover_every_run_exactly_once(runs: int) -> None:
    jobs = split_into_jobs(TARGET, "2A", "sim", runs_of(["one", "two"], (40, 40 + runs)))
    jobs += split_into_jobs(TARGET, "2A", "rpyc", runs_of(["one"], (40, 43)))
    covered = [(job.network, test, seed) for job in jobs for test, seed in job.runs]
    expected = [("sim", test, seed) for test in ("one", "two") for seed in range(40, 40 + runs)]
    assert sorted(covered) == sorted([*expected, *(("rpyc", "one", seed) for seed in (40, 41, 42))])
    assert len({job.id for job in jobs}) == len(jobs)
    assert max(len(job.runs) for job in jobs if job.network == "sim") <= RUNS_IN_A_JOB["sim"]
    assert jobs[0].id == "alice.2A.sim.000"


def test_few_runs_share_a_job() -> None:
    assert pieces("sim", runs_of(["one", "two"], (0, 5))) == [(["one", "two"], (0, 5))]


def test_tests_that_lack_the_same_runs_share_a_job() -> None:
    missing = [*runs_of(["one"], (4, 6)), *runs_of(["two"], (4, 6)), ("three", 0), ("three", 5)]
    assert pieces("sim", missing) == [(["one", "two"], (4, 6)), (["three"], (0, 1)), (["three"], (5, 6))]


def test_jobs_are_about_equally_long() -> None:
    jobs = pieces("rpyc", runs_of([f"test-{number}" for number in range(13)], (0, 1)))
    assert [len(tests) for tests, _ in jobs] == [4, 4, 5]


def pieces(network: str, runs: Sequence[TestRun]) -> list[tuple[list[str], tuple[int, int]]]:
    return [(job.tests, job.seeds) for job in split_into_jobs(TARGET, "2A", network, runs)]
