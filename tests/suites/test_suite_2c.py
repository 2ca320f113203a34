"""The reference with any known bug of lab 2C (``tests/bugs/2c``) fails the tests that the file of the bug names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug, Catch
from raftgrade.proof.kill_rates import write_sources
from raftlab.suites import catalogue
from tests.known_bugs import REFERENCE, cases, check, failures_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("bug", "catch"), cases("2C"))
def test_the_bug_is_caught(bug: Bug, catch: Catch, tmp_path: Path) -> None:
    check(bug, catch, tmp_path)


# The only server of a cluster begins an election as soon as the server has started, and is elected a moment later.
ELECTION_AT_START = (
    (
        """\
        self._restart_election_timer()
        # endregion
""",
        """\
        self._restart_election_timer()
        self.election_deadline *= len(peers) > 1
        # endregion
""",
    ),
    (
        """\
    def _lead_if_elected(self) -> None:
""",
        """\
    def _lead_if_elected(self) -> None:
        if len(self.peers) > 1:
            self._lead_with_most_votes()
        else:
            threading.Thread(target=self._lead_alone, args=(self.current_term,)).start()

    def _lead_alone(self, term: int) -> None:
        time.sleep(0.01)
        with self.lock:
            if self.role == CANDIDATE and self.current_term == term:
                self._lead_with_most_votes()

    def _lead_with_most_votes(self) -> None:
""",
    ),
)


def test_a_lone_server_may_start_an_election_as_soon_as_it_has_started(tmp_path: Path) -> None:
    text = REFERENCE["raft.py"]
    for old, new in ELECTION_AT_START:
        assert text.count(old) == 1
        text = text.replace(old, new)
    write_sources(tmp_path, {**REFERENCE, "raft.py": text})
    tests = [info for info in catalogue.tests("2C") if info.name == "start_while_elected"]
    assert [failure.text for _, failure in failures_of(tmp_path, tests)] == []
