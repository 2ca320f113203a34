"""What is expected, and how it is cut into jobs."""

import pytest

from raftgrade.plan import Settings, cut, expect

from .fakes import FakeTest

TESTS = [
    FakeTest("2A", "one", "first", 10),
    FakeTest("2A", "two", "second", 10, ("sim",)),
    FakeTest("2B", "three", "third", 5),
]


def settings(runs: dict[str, int], seed: int = 0) -> Settings:
    return Settings(labs=["2A", "2B"], networks=list(runs), runs=runs, seed=seed, jobs=2)


def by_lab() -> dict[str, list[FakeTest]]:
    return {lab: [test for test in TESTS if test.lab == lab] for lab in ("2A", "2B")}


def test_a_test_runs_where_it_can() -> None:
    tests, left_out = expect(settings({"sim": 20, "rpyc": 2}), by_lab())
    assert [(test.name, test.networks) for test in tests] == [
        ("one", ["sim", "rpyc"]),
        ("two", ["sim"]),
        ("three", ["sim", "rpyc"]),
    ]
    assert left_out == []


def test_a_test_of_another_network_is_left_out_and_named() -> None:
    tests, left_out = expect(settings({"rpyc": 2}), by_lab())
    assert [test.name for test in tests] == ["one", "three"]
    assert [(item.name, item.networks) for item in left_out] == [("two", ["sim"])]


@pytest.mark.parametrize("runs", [1, 2, 3, 7, 10, 11, 20, 25, 100])
def test_the_jobs_cover_every_run_exactly_once(runs: int) -> None:
    asked = settings({"sim": runs, "rpyc": 3}, seed=40)
    tests, _ = expect(asked, by_lab())
    jobs = cut(asked, tests, "alice", "alice", "a")
    covered = [(job.lab, job.network, test, seed) for job in jobs for test, seed in job.runs]
    expected = [
        (test.lab, network, test.name, seed)
        for test in tests
        for network in test.networks
        for seed in range(40, 40 + asked.runs[network])
    ]
    assert sorted(covered) == sorted(expected)
    assert len({job.id for job in jobs}) == len(jobs)
    assert max(len(job.runs) for job in jobs if job.network == "sim") <= 10


def test_long_jobs_first_and_few_runs_share_a_job() -> None:
    asked = settings({"sim": 5, "rpyc": 2})
    tests, _ = expect(asked, by_lab())
    jobs = cut(asked, tests, "alice", "alice", "a")
    assert [(job.network, job.tests, job.seeds) for job in jobs] == [
        ("rpyc", ["one"], (0, 2)),
        ("rpyc", ["three"], (0, 2)),
        ("sim", ["one", "two"], (0, 5)),
        ("sim", ["three"], (0, 5)),
    ]
    assert jobs[0].id == "alice.2A.rpyc.000"
