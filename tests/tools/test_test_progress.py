"""The exact output of ``raftlab test``."""

from __future__ import annotations

import io
import re

import pytest

from raftlab.explain import rules
from raftlab.explain.failure import Failure
from raftlab.runs.record import Outcome, Record
from raftlab.suites.catalogue import TestInfo
from raftlab.tools.many_runs import PlannedRun
from raftlab.tools.test_progress import Look, ProgressBoard, terminal_look

FIRST = TestInfo("2A", "first", "A leader is elected", 5, ("sim", "rpyc"))
SECOND = TestInfo("2A", "second", "Half of four servers is no majority", 4, ("sim",))


def record(info: TestInfo, seed: int = 0, outcome: Outcome = "passed", network: str = "sim") -> Record:
    failed = outcome != "passed"
    return Record(
        test=info.name,
        lab="2A",
        title=info.title,
        network=network,
        seed=seed,
        points=info.points,
        outcome=outcome,
        failure=Failure("assertion", "expected a leader, but there is none", hint="Begin.") if failed else None,
        servers=3,
        lab_s=5.4,
        rpcs=1230,
        rpc_bytes=21_400,
        entries=1,
        advice=["raft.py:9: hold less"],
        trace=f"raftlab-out/2A-{info.name}-{network}-{seed}.jsonl" if failed else "",
        replay=f"raftlab replay {info.name}@{seed}",
    )


def runs(*tests: TestInfo, seeds: int = 1, networks: tuple[str, ...] = ("sim",)) -> list[PlannedRun]:
    return [
        PlannedRun(info, network, seed)
        for info in tests
        for seed in range(seeds)
        for network in networks
        if network in info.networks
    ]


def shown(board: ProgressBoard, out: io.StringIO) -> str:
    """What the board wrote, with the wall-clock time made constant."""
    return re.sub(r"in \d+\.\d s$", "in 0.0 s", out.getvalue().rstrip("\n"), flags=re.MULTILINE)


def test_one_seed() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND))
    board.started(PlannedRun(FIRST, "sim", 0), 0)
    board.finished(record(FIRST))
    board.finished(record(SECOND, outcome="failed"))
    assert board.close() == 1
    assert shown(board, out) == (
        "  PASS   A leader is elected                    5.4 s  3 servers  1,230 RPCs    21 kB    1 entry\n"
        "  FAIL   Half of four servers is no majority    5.4 s  3 servers  1,230 RPCs    21 kB    1 entry\n"
        "         second@0: expected a leader, but there is none\n"
        "\n"
        "Half of four servers is no majority: failed (second, sim, seed 0)\n"
        "expected a leader, but there is none\n"
        "  picture: raftlab view raftlab-out/2A-second-sim-0.jsonl\n"
        "  hint: Begin.\n"
        "  replay: raftlab replay second@0\n"
        "\n"
        "advice (it costs no points):\n"
        "  raft.py:9: hold less\n"
        "\n"
        "the trace of the failing run is in raftlab-out/2A-second-sim-0.jsonl\n"
        "\n"
        "lab 2A: 1 of 2 tests passed, 5 of 9 points; 2 runs, 11 s of lab time in 0.0 s"
    )


def test_advice_that_one_of_several_tests_gave_names_it() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND))
    stale = record(SECOND)
    stale.advice.append("a read was stale")
    board.finished(record(FIRST))
    board.finished(stale)
    board.close()
    assert "  raft.py:9: hold less\n  a read was stale (second)\n" in shown(board, out)


def test_many_seeds_and_both_networks() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND, seeds=12, networks=("sim", "rpyc")))
    for seed in range(12):
        board.finished(record(FIRST, seed, "failed" if seed > 1 else "passed"))
        board.finished(record(FIRST, seed, network="rpyc"))
    assert board.close() == 1
    text = shown(board, out)
    assert text.startswith(
        "  2/12   sim   A leader is elected                    5.4 s  3 servers  1,230 RPCs    21 kB    1 entry\n"
        "         first, seeds 2, 3, 4, 5, 6, 7, 8, 9 and 2 more (sim): expected a leader, but there is none\n"
        "  12/12  rpyc  A leader is elected                    5.4 s  3 servers  1,230 RPCs    21 kB    1 entry\n"
        "\n"
        "A leader is elected: failed (first, sim, seed 2; of 10 failing runs, this one says the most)\n"
    )
    assert "\nthe traces of the 10 failing runs are in raftlab-out/\n" in text
    # Only a test whose every run passed earns points.
    assert text.endswith("lab 2A: 0 of 2 tests passed, 0 of 9 points; 24 runs, 130 s of lab time in 0.0 s")


def test_an_unjudged_run_is_no_failure() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND))
    board.finished(record(FIRST, outcome="error"))
    board.finished(record(SECOND))
    assert board.close() == 2
    assert "\nA leader is elected: could not be judged (first, sim, seed 0)\n" in shown(board, out)


def test_failure_counts_before_error() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND))
    board.finished(record(FIRST, outcome="error"))
    board.finished(record(SECOND, outcome="failed"))
    assert board.close() == 1
    assert (
        "\nHalf of four servers is no majority: failed (second, sim, seed 0; of 2 failing runs, this one says the most)\n"
        in shown(board, out)
    )


def test_interrupted() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, seeds=20))
    board.finished(record(FIRST, 0))
    board.finished(record(FIRST, 1, "failed"))
    board.interrupted()
    assert shown(board, out) == (
        "  1/2    A leader is elected    5.4 s  3 servers  1,230 RPCs    21 kB    1 entry\n"
        "         first, seed 1: expected a leader, but there is none\n"
        "\n"
        "A leader is elected: failed (first, sim, seed 1)\n"
        "expected a leader, but there is none\n"
        "  picture: raftlab view raftlab-out/2A-first-sim-1.jsonl\n"
        "  hint: Begin.\n"
        "  replay: raftlab replay first@1\n"
        "\n"
        "interrupted: 2 of 20 runs done"
    )


def test_live_line_is_redrawn_and_fits() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(SECOND), Look(live=True, columns=50))
    board.started(PlannedRun(SECOND, "sim", 0), 0)
    board.finished(record(SECOND))
    assert out.getvalue() == (
        "\r\x1b[K  0/1  Half of four servers is no majority\r\x1b[K  PASS   Half of four server…    5.4 s  1,230 RPCs\n"
    )
    assert all(len(line) <= 50 for line in re.split(r"\r\x1b\[K|\n", out.getvalue()))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_a_terminal_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal_look(io.StringIO()) == Look(False, False, 100)
    assert terminal_look(Terminal()) == Look(True, True, 100)
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal_look(Terminal()) == Look(True, False, 100)
    monkeypatch.setenv("TERM", "dumb")  # a shell in Emacs
    assert terminal_look(Terminal()) == Look(False, False, 100)


def test_colour() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST), Look(colour=True))
    board.finished(record(FIRST))
    assert out.getvalue().startswith("  \x1b[32mPASS \x1b[0m  A leader is elected")


def test_stopped_at_the_first_failure() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND, seeds=3))
    for seed in range(3):
        board.finished(record(FIRST, seed))
    board.finished(record(SECOND, 0, "failed"))
    assert board.close(stopped=True) == 1
    assert "\n  0/1    Half of four servers is no majority " in shown(board, out)
    assert shown(board, out).endswith("\nstopped at the first failure: 4 of 6 runs done")


def test_a_sentence_about_one_mistake_is_shown_before_a_history() -> None:
    out = io.StringIO()
    board = ProgressBoard(out, "3A", runs(FIRST, SECOND))
    history, precise = record(FIRST, outcome="failed"), record(SECOND, outcome="failed")
    history.failure = Failure("assertion", "expected a linearizable history, but it is not", rules.LINEARIZABLE)
    precise.failure = Failure("assertion", "expected S0 to keep its sessions, but it has none", rules.EXACTLY_ONCE)
    for each in (history, precise):
        board.finished(each)
    assert board.close() == 1
    assert "(second, sim, seed 0; of 2 failing runs, this one says the most)" in shown(board, out)


@pytest.mark.parametrize(
    ("first", "of_most"),
    [
        (
            Failure("assertion", "expected S0 to answer 6 reads within 0.5 s", rules.READ_COST),
            Failure("assertion", "expected S0 to answer within 2.5 s", rules.PROGRESS, causes=["it appends no entry"]),
        ),
        (
            Failure("assertion", "expected S0 to keep its sessions, but it has none", rules.EXACTLY_ONCE),
            Failure("exception", "S0: uncaught exception in the client_request handler", causes=["it waits once"]),
        ),
    ],
)
def test_a_failure_with_the_causes_of_others_is_shown_before_another_delay(first: Failure, of_most: Failure) -> None:
    out = io.StringIO()
    tests = [TestInfo("3B", f"test{number}", f"Test {number}", 4, ("sim",)) for number in range(9)]
    board = ProgressBoard(out, "3B", runs(*tests))
    for number, info in enumerate(tests):
        each = record(info, outcome="passed" if number > 3 else "failed")
        each.servers, each.scripted = 3, 2
        if number <= 3:
            each.failure = first if number == 0 else of_most
        board.finished(each)
    assert board.close() == 1
    assert "(test1, sim, seed 0; of 4 failing runs, this one says the most)" in shown(board, out)


@pytest.mark.parametrize("always", [True, False])
def test_a_failure_without_a_race_is_shown_before_a_race(always: bool) -> None:
    """A test with one server that breaks the same rule in every run does not fail because of the order of threads."""
    out = io.StringIO()
    others = [TestInfo("2A", f"test{number}", f"Test {number}", 4, ("sim",)) for number in range(3)]
    board = ProgressBoard(out, "2A", runs(FIRST, SECOND, *others, seeds=2))
    for info in (FIRST, SECOND, *others):
        for seed in range(2):
            fails = info is FIRST or (info is SECOND and (always or seed == 0))
            each = record(info, seed, "failed" if fails else "passed")
            each.servers, each.scripted = 3, 2
            if each.failure is not None:
                each.failure = Failure("assertion", f"expected S0 to obey {info.name}", rules.OLD_TERM)
                each.failure.read = "handouts/locking.md#after-waiting-look-again" if info is FIRST else ""
            board.finished(each)
    assert board.close() == 1
    assert f"({'second' if always else 'first'}, sim, seed 0; of " in shown(board, out)
