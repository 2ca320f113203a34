"""Tests that the suites of labs 3A and 3B pass correct services in clearly different styles (``tests/correct_services``) on
the reference's Raft, and the reference's service on correct Rafts in different styles. Most of these Rafts run with their
labs after 2D switched off, because lab 3 needs none of them.

To save time, each service and each Raft runs a sample of a suite: the services divide one half of the tests among
themselves, and the Rafts the other half. The daily tests run a sixth of each share, and CI runs the rest. With
``--whole-suites``, each runs every test.

To try every service with many seeds: ``raftlab test 3A --impl tests/correct_services/NAME --raft solutions --seeds 100``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from tests.conftest import ROOT, SOLUTION
from tests.daily_sample import BOTH_PARTS, Part
from tests.known_bugs import failures_of
from tests.suites.test_correct_rafts import without_later_labs

pytestmark = pytest.mark.slow

SERVICES = sorted(path.parent for path in (ROOT / "tests" / "correct_services").glob("*/kv.py"))
# The services that implement lab 3B.
READERS = [service for service in SERVICES if ".read_index()" in (service / "kv.py").read_text()]
RAFTS = ("whole_batching", "whole_heartbeats", "whole_lazy", "whole_tick")
# The services whose servers answer reads by lease even if they do not lead, as part 2 of lab 3B requires.
HOLDERS = ("batched", "by_index")
# The Rafts that implement part 1 of lab 3B, each with the last of labs 2A to 2G that it has. Lab 3B needs no lab after
# 2D.
READING_RAFTS = (("whole_lazy", "2D"), ("whole_tick", "2D"), ("whole_tick", "2F"))
# This Raft sends new entries with the next heartbeat. The handout says that this is too slow for one test of lab 3A.
TOO_SLOW = {"whole_lazy": {"requests_and_time"}}
# The halves of a lab's tests: the services share one half, and the Rafts the other. Part 2 of lab 3B runs on services only,
# so the services share all of its tests.
SERVICE_HALF, RAFT_HALF = 0, 1


def sample(
    lab: str, number: int, parts: int, config: pytest.Config, half: int | None, later_part: bool = False
) -> Sequence[TestInfo]:
    """One service's or Raft's share of the tests of a lab. With ``--whole-suites``, the share has all of these tests.

    Args:
        number: the number of the share.
        parts: into how many shares the tests are divided.
        half: which tests are divided: every second one from the first (0) or from the second (1) on, or all (``None``).
        later_part: divide the tests of part 2 of lab 3B instead of the other tests.
    """
    tests = [info for info in catalogue.tests(lab) if info.name.startswith("part2_") == later_part]
    if config.getoption("--whole-suites"):
        return tests
    return tests[half::2][number::parts] if half is not None else tests[number::parts]


@BOTH_PARTS
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_the_suites_pass_a_correct_service(service: Path, part: Part, pytestconfig: pytest.Config) -> None:
    tests = sample("3A", SERVICES.index(service), len(SERVICES), pytestconfig, SERVICE_HALF)
    if service in READERS:
        tests = [*tests, *sample("3B", READERS.index(service), len(READERS), pytestconfig, SERVICE_HALF)]
    if service.name in HOLDERS:
        number = HOLDERS.index(service.name)
        tests = [*tests, *sample("3B", number, len(HOLDERS), pytestconfig, None, later_part=True)]
    failures = failures_of(service, part(tests), SOLUTION)
    assert [(info.name, failure.text) for info, failure in failures] == []


@BOTH_PARTS
@pytest.mark.parametrize(("style", "lab"), READING_RAFTS)
def test_lab_3b_passes_the_reference_on_a_correct_raft(
    style: str, lab: str, part: Part, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    tests = sample("3B", READING_RAFTS.index((style, lab)), len(READING_RAFTS), pytestconfig, RAFT_HALF)
    failures = failures_of(SOLUTION.parent, part(tests), without_later_labs(style, lab, tmp_path))
    assert [(info.name, failure.text) for info, failure in failures] == []


@BOTH_PARTS
@pytest.mark.parametrize("style", RAFTS)
def test_the_suite_passes_the_reference_on_a_correct_raft(
    style: str, part: Part, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    tests = sample("3A", RAFTS.index(style), len(RAFTS), pytestconfig, RAFT_HALF)
    tests = [info for info in tests if info.name not in TOO_SLOW.get(style, ())]
    failures = failures_of(SOLUTION.parent, part(tests), without_later_labs(style, "2D", tmp_path))
    assert [(info.name, failure.text) for info, failure in failures] == []
