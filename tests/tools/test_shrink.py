"""Tests of `raftlab shrink`, `diff`, `fuzz` and `replay --pdb` on Rafts with a known bug, run as a student runs them."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug
from raftlab.explain.render import as_text
from raftlab.runs import names, random_scenarios, scenario
from raftlab.runs.run import Branch, Implementation
from raftlab.runs.scenario_commands import Heal, Wait, parse_line
from raftlab.suites import catalogue
from raftlab.tools import diff, shrink
from raftlab.tools.shrink import NotFailing, Shrinker, Shrunk
from tests import daily_sample
from tests.conftest import ROOT, SOLUTION
from tests.counts import ALL_LABS
from tests.known_bugs import BANK, put
from tests.tools.test_cli import raftlab_in

pytestmark = pytest.mark.slow

LONG = 3600.0  # the limit of each search, in seconds; the searches below end long before it
CLEARS_ITS_VOTE = BANK.find("2A", "el-vote-cleared-same-term")
FIGURE_8 = BANK.find("2C", "rp-commit-old-term")
FORGETS_ITS_VOTE = BANK.find("2C", "ps-no-votedfor")


def shrunk(folder: Path, bug: Bug, name: str, seed: int) -> Shrunk:
    with closing(Implementation(put(bug, folder))) as impl:
        return Shrinker(impl, LONG).test(catalogue.find_test(name), seed)


@daily_sample.NOT_DAILY
def test_shrinking_a_figure_8_failure(tmp_path: Path) -> None:
    found = shrunk(tmp_path, FIGURE_8, "figure_8_in_steps", 0)
    assert found.scenario is not None
    assert len(found.scenario.commands) < 15
    assert found.scenario.servers <= 3
    assert found.failure.rule is not None
    assert found.failure.rule.name == "commit only your own term"
    # A run of the scenario's text ends in the same way.
    with closing(Implementation(tmp_path)) as impl:
        again = shrink.play(impl, scenario.parse(found.scenario.text()))
    assert again is not None
    assert names.expected(again.failure) == found.scenario.expected


@daily_sample.NOT_DAILY
def test_shrinking_a_random_scenario_that_loses_a_vote(tmp_path: Path) -> None:
    with closing(Implementation(put(FORGETS_ITS_VOTE, tmp_path))) as impl:
        first = next(
            seed for seed in range(100) if shrink.play(impl, random_scenarios.generate("2C", seed)) is not None
        )
        found = Shrinker(impl, LONG).scenario(random_scenarios.generate("2C", first))
    assert found.scenario is not None
    assert len(found.scenario.commands) < 15
    assert found.failure.rule is not None
    assert found.failure.rule.name == "what survives"


def test_shrinking_a_test_with_scripted_servers_finds_its_shortest_run(tmp_path: Path) -> None:
    found = shrunk(tmp_path, CLEARS_ITS_VOTE, "who_gets_a_vote", 0)
    assert found.scenario is None
    assert found.why_not == "the test plays servers itself"
    assert found.events <= found.events_before


def test_a_passing_run_cannot_be_shrunk(tmp_path: Path) -> None:
    with pytest.raises(NotFailing, match=r"^many_elections@1 passes; there is nothing to shrink$"):
        shrunk(tmp_path, FIGURE_8, "many_elections", 1)


@pytest.mark.parametrize(
    ("line", "simpler"),
    [
        ("wait 1.234", ["wait 0.1", "wait 0.5", "wait 1", "wait 1.2"]),
        ("wait 0.1", []),
        ("propose a 30", ["propose a", "propose a 2", "propose a 5", "propose a 15"]),
        ("agree 3", ["agree 1"]),
        ("snapshots 5 1000", ["snapshots 5"]),
        ("unreliable duplicate=0.3", ["unreliable"]),
        ("crash a", []),
    ],
)
def test_simpler_forms_of_a_command(line: str, simpler: list[str]) -> None:
    assert [str(each) for each in parse_line(line).simpler()] == simpler


def test_consecutive_waits_are_joined() -> None:
    commands = [Wait("0.5"), Wait("0.25"), Heal(), Wait("1")]
    assert [str(each) for each in shrink.merged(commands)] == ["wait 0.75", "heal", "wait 1"]


# --- the commands as a student runs them ---


def test_shrink_and_replay(tmp_path: Path) -> None:
    put(CLEARS_ITS_VOTE, tmp_path)
    done = raftlab_in(tmp_path, "shrink", "many_elections@0")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.match(
        r"\d commands instead of \d+, \d+ events instead of \d+; \d+ runs tried\n\nraftlab scenario 1\n", done.stdout
    )
    assert "\nexpected S" in done.stdout
    assert "\n  rule: one vote a term: " in done.stdout
    assert done.stdout.endswith("\n  replay: raftlab replay raftlab-out/many_elections-0.txt\n")
    again = raftlab_in(tmp_path, "replay", "raftlab-out/many_elections-0.txt", "--out", "again.jsonl")
    assert again.returncode == 1
    header = json.loads((tmp_path / "again.jsonl").read_text().partition("\n")[0])
    assert header["replay"].startswith("raftlab replay raftlab-out/many_elections-0.txt")
    assert "\nthe run ended as the scenario file says, with the same last events\n" in again.stdout
    # With a different Raft, the run ends differently, and replay says so.
    (tmp_path / "raft.py").write_text(SOLUTION.read_text())
    well = raftlab_in(tmp_path, "replay", "raftlab-out/many_elections-0.txt")
    assert well.returncode == 0
    assert "\nthe run did not end as in the scenario file, which says: expected S" in well.stdout
    assert (
        raftlab_in(tmp_path, "shrink", "many_elections@0").stdout
        == "many_elections@0 passes; there is nothing to shrink\n"
    )


def test_fuzz_finds_and_shrinks_a_failure(tmp_path: Path) -> None:
    put(CLEARS_ITS_VOTE, tmp_path)
    done = raftlab_in(tmp_path, "fuzz", "2A", "--seeds", "40", "--jobs", "1")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.match(r"fuzz_2A@\d+ failed after \d+ runs?: expected ", done.stdout)
    assert "\n  rule: one vote a term: " in done.stdout
    name = re.search(r"replay (raftlab-out/fuzz_2A-\d+\.txt)\n$", done.stdout)
    assert name
    told = names.read(tmp_path / name[1])
    assert len(told.commands) < 15


def test_fuzz_finds_no_failure(tmp_path: Path) -> None:
    (tmp_path / "raft.py").write_text(SOLUTION.read_text())
    done = raftlab_in(tmp_path, "fuzz", "2D", "--seeds", "5:13", "--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"lab 2D: 8 runs in \d+ s, from seed 5 on: nothing failed\n", done.stdout)


def test_diff_shows_where_a_passing_run_departs(tmp_path: Path) -> None:
    put(CLEARS_ITS_VOTE, tmp_path)
    done = raftlab_in(tmp_path, "diff", "many_elections@0")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.match(r"many_elections@0 fails at \d\.\d{3} s: expected ", done.stdout)
    assert re.search(r"\nThe passing run that stays identical the longest departs at \d\.\d{3} s\. ", done.stdout)
    blocks = re.findall(r"\n  (.*):\n((?:    .*\n?)+)", done.stdout)
    assert [title for title, _ in blocks] == [
        "both runs have",
        "only the run that fails has",
        "only the run that passes has",
    ]
    assert "S0⇢S1 RequestVote answers term=4 vote_granted=True" in blocks[1][1]


def test_diff_of_a_run_that_always_fails(tmp_path: Path) -> None:
    put(CLEARS_ITS_VOTE, tmp_path)
    done = raftlab_in(tmp_path, "diff", "who_gets_a_vote@0")
    assert done.returncode == 1
    assert done.stdout.endswith("from the start: the failure does not depend on chance.\n")
    assert raftlab_in(tmp_path, "diff", "initial_election@0").stdout.startswith("initial_election@0 passes; ")


def test_a_branch_is_the_same_run_until_its_time(tmp_path: Path) -> None:
    named = names.named("many_elections@3", "sim", None)
    with closing(Implementation(put(FIGURE_8, tmp_path))) as impl:
        search = diff.Search(impl, named, LONG)
        plain, other, again = search.play(), search.play(Branch(1.5, 0)), search.play(Branch(1.5, 0))
    assert other.events == again.events
    upto = [[event for event in run.events if event.time < 1.5] for run in (plain, other)]
    assert upto[0] == upto[1]
    assert plain.events != other.events


def test_pdb_at_a_given_time(tmp_path: Path) -> None:
    put(CLEARS_ITS_VOTE, tmp_path)
    typed = "p 'S', self.me\nn\nc\n"
    done = raftlab_in(tmp_path, "replay", "many_elections@0", "--pdb", "--until", "2.8", "--server", "0", typed=typed)
    assert "stopped at 2.800 s (n: next line, c: continue, q: quit)\n> " in done.stdout
    assert "(Pdb) ('S', 0)\n" in done.stdout
    # The debugger changes nothing: the run ends as it does without one.
    assert re.search(r"expected S0 .* term 4, .*\n  rule: one vote a term: ", done.stdout)
    assert done.returncode == 1
    left = raftlab_in(tmp_path, "replay", "many_elections@0", "--pdb", "--until", "1", typed="q\n")
    assert left.stdout.endswith("quit before the end of the run\n")
    assert left.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("shrink nothing.txt", "raftlab: nothing.txt cannot be used: No such file or directory\n"),
        ("replay bad.txt", "raftlab: bad.txt: a scenario begins with the line 'raftlab scenario 1'\n"),
        ("replay odd.txt", f"raftlab: odd.txt: there is no lab '9Z'; the labs are: {ALL_LABS}\n"),
        ("replay bytes.txt", "raftlab: bytes.txt is not a scenario: it is not a text file\n"),
        ("replay fuzz_2A@1 --network rpyc", "raftlab: a scenario runs only on sim, not on rpyc\n"),
        ("fuzz 7X", f"raftlab: there is no lab '7X'; the labs are: {ALL_LABS}\n"),
        ("fuzz 2A --for ever", "raftlab: --for takes a time such as 90s, 5m or 1h, not 'ever'\n"),
        ("fuzz 2A --jobs -1", "raftlab: --jobs takes a number of at least 1, not -1\n"),
        (
            "replay initial_election@0 --pdb --network rpyc",
            "raftlab: --pdb works only in the simulator, and writes no trace: leave out --network and --out\n",
        ),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(tmp_path: Path, arguments: str, said: str) -> None:
    (tmp_path / "raft.py").write_text(SOLUTION.read_text())
    (tmp_path / "bad.txt").write_text("hello\n")
    (tmp_path / "odd.txt").write_text("raftlab scenario 1\nlab 9z\nseed 0\nservers 3\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    done = raftlab_in(tmp_path, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


# --- what the handout shows ---

GOES_BACK = BANK.find("2D", "sn-goes-back")
# The bug behind each block of debugging.md, by the block's marker. tests/handouts/test_examples.py tests the first
# block, too.
SHOWN = {
    "example: raftlab shrink snapshot_unreliable@0; bug 2D/sn-goes-back": GOES_BACK,
    "shrink: vote": FORGETS_ITS_VOTE,
    "shrink: figure 8": FIGURE_8,
}


def block(name: str) -> str:
    """The block that debugging.md shows below ``<!-- name -->``."""
    text = (ROOT / "handouts" / "debugging.md").read_text(encoding="utf-8")
    return text.partition(f"<!-- {name} -->\n```\n")[2].partition("```")[0]


@pytest.mark.parametrize("name", SHOWN, ids=["snapshot", "vote", "figure 8"])
def test_the_handouts_scenarios_are_real(tmp_path: Path, name: str) -> None:
    shown = block(name)
    told = scenario.parse(shown[shown.index("raftlab scenario") :].partition("\nexpected")[0])
    assert len(told.commands) < 15
    with closing(Implementation(put(SHOWN[name], tmp_path))) as impl:
        played = shrink.play(impl, told)
    assert played is not None
    assert f"\n{played.failure.text}\n" in shown
    if SHOWN[name] is GOES_BACK:
        assert f"\n{as_text(played.failure)}\n" in shown
    with closing(Implementation(SOLUTION.parent)) as impl:
        assert shrink.play(impl, told) is None
