"""Tests of the report as a table on the terminal."""

import msgspec
import pytest

from raftgrade.plan import LeftOut
from raftgrade.reports import table
from raftgrade.results import Problem
from raftgrade.tally import Entry, RefusalEntry, RunEntry
from raftlab.explain.failure import Failure, Rule
from raftlab.sandbox.levels import Sandbox
from tests.grader.fakes import record
from tests.grader.test_tally import all_passed, fold


def test_a_clean_submission() -> None:
    assert (
        table.render(fold(all_passed()))
        == """\
== alice (alice)

Lab 2A (seconds and RPCs of the runs that passed in sim)
test      points  sim          rpyc           p50 s    p95 s    RPCs
------  --------  -----------  -----------  -------  -------  ------
first      10/10  2/2 [.16–1]  1/1 [.03–1]    10.50    10.95     125
second       5/5  2/2 [.16–1]  –               0.00     0.00       0

points 15/15 · 1 of 1 submissions clean · 5 runs · 12 s"""
    )


def test_failures_are_grouped_and_cleaned() -> None:
    rule = Rule("election safety", "one leader a term", "§5.2", "handouts/2a.md")
    failure = Failure("invariant", "expected one leader\x1b[31m, saw two\nmore", rule, where="raft.py:12")
    entries: list[Entry] = [
        RunEntry("alice", record("first", seed, "failed", failure=failure, replay=f"replay {seed}")) for seed in (0, 1)
    ]
    entries.append(
        RunEntry("alice", record("second", 0, "error", failure=Failure("not-judged", "it died", hint="again")))
    )
    entries.append(RunEntry("alice", record("second", 1, advice=["a lock is held across a call"])))
    assert (
        table.render(fold(entries, complete=False))
        == """\
== alice (alice)

Lab 2A (seconds and RPCs of the runs that passed in sim)
test      points  sim             rpyc      p50 s    p95 s    RPCs
------  --------  --------------  ------  -------  -------  ------
first       0/10  0/2 [0–.84]     0/0 …1        –        –       –
second       5/5  1/1 [.03–1] ?1  –          0.00     0.00       0

Failures
  2A first (first leader) · sim · seeds 0, 1 (2 of 2 runs)
    expected one leader\\x1b[31m, saw two
    at raft.py:12
    rule: election safety (§5.2)
    replay: replay 0

Not judged (the machine's fault or ours: no mark is lost)
  2A second · sim · seed 0
    it died
    again

Advice (costs no points)
  2A second: a lock is held across a call

not complete: 4 of 5 runs have finished

points 5/15 · 0 of 1 submissions clean · 4 runs · 12 s"""
    )


def test_refused_submissions_are_in_the_overview() -> None:
    entries: list[Entry] = [
        *all_passed(),
        RefusalEntry("bob", "refused", [Problem("no class Raft", "raft.py", "set-up")]),
    ]
    entries.append(RunEntry("carol", record("first", 0, "failed")))
    report = fold(entries, "alice", "bob", "carol", "dan")
    report.left_out = [LeftOut("2A", "third", "third leader", ["sim"])]
    text = table.render(report)
    assert (
        """\
== bob (bob): refused, no test was run

  no class Raft
    at raft.py
    read: set-up"""
        in text
    )
    assert "== dan (dan): not run" in text
    assert text.endswith("""\
not run: 2A third (sim only)

submission      points  state    tests not passed
------------  --------  -------  -------------------
alice            15/15  clean    –
bob               0/15  refused  –
carol             0/15  running  2A first, 2A second
dan               0/15  waiting  –

points 15/60 · 1 of 4 submissions clean · 6 runs · 12 s""")


def test_wide_content_stays_within_the_width() -> None:
    words = Failure("assertion", "expected " + "a very long tale " * 20)
    entries: list[Entry] = [RunEntry("alice", record("first", 0, "failed", failure=words))]
    report = fold(entries)
    report.submissions[0].tests[0].name = "a_leader_is_elected_again_after_the_old_one_comes_back_from_a_cut"
    for test in report.submissions[0].tests:
        for network in test.networks:
            network.runs = network.passes = 100
            network.errors = 10
    assert max(map(len, table.render(report).splitlines())) <= table.WIDTH


def test_a_share_is_never_rounded_to_certainty() -> None:
    assert [table._share(x) for x in (0.0, 0.0001, 0.5, 0.9999, 1.0)] == ["0", ".01", ".50", ".99", "1"]


def test_many_failures_of_one_kind_are_not_all_shown_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_ALIKE", 1)
    failure = Failure("assertion", "expected something")
    runs = [record("first", 1, "failed", failure=failure), record("second", 0, "failed", failure=failure)]
    runs.append(record("first", 0, "failed", failure=failure, network="rpyc"))
    text = table.render(fold([RunEntry("alice", run) for run in runs]))
    assert text.count("expected something") == 1
    assert "  2A: 2 more failures like these (assertion): first@0 (rpyc), second@0\n" in text


def test_one_reason_for_many_unjudged_runs_is_shown_once() -> None:
    failure = Failure("not-judged", "could not be judged: the machine is on fire", hint="call somebody")
    errors = [record(name, seed, "error", failure=failure) for name in ("first", "second") for seed in (0, 1)]
    text = table.render(fold([RunEntry("alice", run) for run in errors]))
    assert text.count("on fire") == 1
    assert "  2A first · sim · seeds 0, 1 and 2 other runs\n    could not be judged: the machine is on fire\n" in text


def test_the_last_lines_say_which_sandbox_was_used() -> None:
    for sandbox, words in [
        (Sandbox("bwrap"), "student code ran in a sandbox (bwrap)"),
        (
            Sandbox("rlimits", "bubblewrap is not installed"),
            "student code ran with limits, but could read this machine's files (rlimits): bubblewrap is not\ninstalled",
        ),
        (Sandbox("none", "asked for"), "student code ran without a sandbox (none): asked for"),
    ]:
        report = fold(all_passed())
        report.settings = msgspec.structs.replace(report.settings, sandbox=sandbox)
        assert words in table.render(report).split("\n\n")


def test_the_last_lines_say_that_servers_can_share_memory_if_all_runs_were_simulated() -> None:
    report = fold(all_passed())
    for level, networks, told in (
        ("bwrap", ["sim"], True),
        ("rlimits", ["sim"], True),
        ("bwrap", ["sim", "rpyc"], False),
        ("bwrap", ["rpyc"], False),
        ("none", ["sim"], False),  # for code that the user trusts
    ):
        report.settings = msgspec.structs.replace(report.settings, sandbox=Sandbox(level), networks=networks)
        said = "in the simulator only, where servers can share memory" in " ".join(table.render(report).split())
        assert said == told, (level, networks)
