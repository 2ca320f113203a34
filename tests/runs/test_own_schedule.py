"""If a suite's test names a schedule, it always runs with that schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlab.runs.run import Implementation, Run
from raftlab.schedules import SCHEDULES
from raftlab.suites import catalogue
from tests.conftest import SOLUTION


@pytest.mark.parametrize("asked_for", [None, "random"])
def test_the_schedule_of_a_test_comes_before_that_of_the_command(asked_for: str | None) -> None:
    info = replace(catalogue.tests("2A")[0], schedule="none")
    impl = Implementation(SOLUTION)
    assert {Run(impl, info, "sim", seed, asked_for).schedule for seed in range(20)} == {"none"}
    assert Run(impl, info, "rpyc", 0, asked_for).schedule == ""


def test_schedules_of_tests_exist() -> None:
    own = {info.name: info.schedule for info in catalogue.tests("3A") if info.schedule is not None}
    assert "requests_and_time" in own
    assert set(own.values()) <= set(SCHEDULES)
