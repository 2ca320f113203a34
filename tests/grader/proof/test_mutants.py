"""Tests of ``raftgrade proof --mutants``: the mutants that each operator makes, their names, the notes on them, which passes
count, and real passes of a few mutants."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from raftgrade.cli import main
from raftgrade.proof import mutant_runs, mutants, mutants_page
from raftgrade.proof import page as proof_page
from raftgrade.proof.bug_bank import BadBank
from raftgrade.proof.kill_rates import Kill, Pass, Settings
from raftgrade.proof.mutants import OPERATORS, Mutant, Notes
from raftlab import labs
from tests import daily_sample
from tests.conftest import ROOT, SOLUTION

REFERENCE = SOLUTION.read_text(encoding="utf-8")
SMALL = '''"""A small server."""

# region 2B: constants
BATCH = 200
# endregion


class Raft:
    def __init__(self, lock):
        self.lock = lock
        self.term = 0
        self.role = FOLLOWER

    def handle(self, args):
        """Take over what is new, and answer."""
        with self.lock:
            self._see(args.term)
            # region 2E: members
            if args.term < self.term or not args.entries:
                return None
            # endregion
            self.entries += args.entries
            self._persist()
            self.wake.notify_all()
            return Reply(self.term, min(args.index + 1, self.last))

    def loop(self):
        while True:
            with self.lock:
                while self.role != LEADER:
                    self.wake.wait()
                batch = sorted(each for each in self.entries if each.index > 0)
            self.send(batch)

    def _see(self, term):
        if term > self.term:
            self.term = term

    def _persist(self):
        self.disk.save(self.term)
'''


@cache  # no constant, because pytest imports this module in each of its processes, and making all mutants takes 1 s
def all_mutants() -> list[Mutant]:
    """All mutants of the reference."""
    return mutants.make(REFERENCE)


def a_mutant() -> Mutant:
    """A mutant of the reference."""
    return all_mutants()[0]


def made(operator: str, source: str = SMALL) -> list[str]:
    return [mutant.change for mutant in mutants.make(source) if mutant.operator == operator]


@pytest.mark.parametrize(
    ("operator", "changes"),
    [
        (
            "always",
            ["args.term < self.term or not args.entries → True", "each.index > 0 → True", "term > self.term → True"],
        ),
        ("drop", ["args.term < self.term → False", "not args.entries → False"]),
        ("and-or", ["args.term < self.term or not args.entries → ((args.term < self.term) and (not args.entries))"]),
        (
            "compare",
            [
                "args.term < self.term → args.term <= self.term",
                "each.index > 0 → each.index >= 0",
                "term > self.term → term >= self.term",
            ],
        ),
        ("arithmetic", ["args.index + 1 → (args.index)", "args.index + 1 → (args.index - 1)"]),
        ("function", ["min → max", "sorted → list"]),
        ("role", ["FOLLOWER → CANDIDATE", "FOLLOWER → LEADER", "LEADER → CANDIDATE", "LEADER → FOLLOWER"]),
        (
            "swap",
            [
                "Reply(self.term, min(args.index + 1, self.last)): self.term, min(args.index + 1, self.last) → "
                "min(args.index + 1, self.last), self.term"
            ],
        ),
        ("lock-remove", ["with self.lock → if True", "with self.lock → if True"]),
        ("lock-late", ["after self._see(args.term)", "after while self.role != LEADER: self.wake.wait()"]),
        (
            "lock-short",
            [
                "before return Reply(self.term, min(args.index + 1, self.last))",
                "before batch = sorted(each for each in self.entries if each.index > 0)",
            ],
        ),
        ("save-early", ["self._persist() before self.entries += args.entries"]),
        ("wait-once", ["while → if self.role != LEADER"]),
        ("notify-one", ["self.wake.notify_all() → self.wake.notify()"]),
        ("stale", ["self.term from before self._see(args.term)"]),
    ],
)
def test_the_changes_that_an_operator_makes(operator: str, changes: list[str]) -> None:
    assert sorted(made(operator)) == sorted(changes)


def test_the_remove_operator_leaves_out_single_statements() -> None:
    removed = {change.removesuffix(" → pass") for change in made("remove")}
    assert removed >= {
        "self._see(args.term)",
        "return None",
        "self._persist()",
        "self.wake.notify_all()",
        "self.term = term",
    }
    assert not any("self.lock = lock" in change or "batch =" in change for change in removed), (
        "without these lines, the first run would already end"
    )


def text_of(operator: str, start: str = "") -> str:
    (mutant,) = [each for each in mutants.make(SMALL) if each.operator == operator and each.change.startswith(start)]
    return mutant.apply_to(SMALL)


def test_an_operator_moves_a_statement_out_of_the_lock() -> None:
    unlocked = "            self.wake.notify_all()\n        return Reply(self.term, min(args.index + 1, self.last))\n"
    assert unlocked in text_of("lock-short", "before return")
    assert "        self._see(args.term)\n        with self.lock:\n            pass\n" in text_of(
        "lock-late", "after self._see"
    )


def test_an_operator_releases_the_lock_for_a_moment() -> None:
    gap = "            self.lock.release()\n            self.lock.acquire()\n            self._persist()\n"
    assert gap in text_of("lock-split", "before self._persist()")


def test_an_operator_uses_a_value_from_before_a_call() -> None:
    text = text_of("stale")
    assert "            stale = self.term\n            self._see(args.term)\n" in text
    assert "if args.term < stale or" in text
    assert "return Reply(stale, min(" in text


def test_an_operator_saves_late_in_another_thread() -> None:
    assert "threading.Thread(target=lambda: (self.lock.acquire(), self._persist(), self.lock.release())" in text_of(
        "save-late"
    )


def test_the_lab_is_that_of_the_changed_line() -> None:
    labs_of = {mutant.change: mutant.lab for mutant in mutants.make(SMALL)}
    assert labs_of["200 → 2000"] == "2B"
    assert labs_of["args.term < self.term → False"] == "2E"
    assert labs_of["self._persist() → pass"] == "2A"


def test_names_do_not_change_with_code_elsewhere() -> None:
    """Notes name mutants, so a mutant's name must not depend on line numbers or on how many other mutants there are."""
    grown = SMALL.replace(
        "        with self.lock:\n            self._see",
        "        self.calls = 7\n        with self.lock:\n            self._see",
    )
    before, after = ({mutant.name for mutant in mutants.make(source)} for source in (SMALL, grown))
    assert grown != SMALL
    assert before < after


def test_mutants_of_the_reference_are_valid_and_differ() -> None:
    assert len({mutant.name for mutant in all_mutants()}) == len(all_mutants()) > 1000
    assert {mutant.operator for mutant in all_mutants()} == set(OPERATORS), (
        "each operator must make at least one mutant"
    )
    assert {mutant.lab for mutant in all_mutants()} == {
        lab.name for lab in labs.LABS.values() if not lab.has("service")
    }
    for mutant in all_mutants()[::40]:
        text = mutant.apply_to(REFERENCE)
        compile(text, mutant.name, "exec")
        assert text != REFERENCE
        assert re.findall("# (?:end)?region.*", text) == re.findall("# (?:end)?region.*", REFERENCE)


def test_code_that_is_not_judged_is_not_mutated() -> None:
    assert not [mutant for mutant in all_mutants() if mutant.function == "status" or mutant.change.startswith("log(")]


# --- notes ---


def write_notes(folder: Path, text: str) -> Path:
    (folder / "mutants").mkdir()
    (folder / mutants.NOTES).write_text(text)
    return folder


def test_the_notes_fit_the_reference() -> None:
    notes = mutants.read_notes(ROOT / "tests", all_mutants())
    assert notes.equivalent, "tests/mutants/notes.toml must list some equivalent mutants"
    assert not notes.equivalent.keys() & notes.missed.keys()


def test_notes_are_read(tmp_path: Path) -> None:
    text = f"[[missed]]\nreason = 'Nobody knows.'\n[missed.mutants]\n'{a_mutant().name}' = '{a_mutant().change}'\n"
    assert mutants.read_notes(write_notes(tmp_path, text), all_mutants()) == Notes(
        {}, {a_mutant().name: "Nobody knows."}
    )
    assert mutants.read_notes(tmp_path / "none", all_mutants()) == Notes()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "'gone.remove.0000' = 'x → pass'",
            r"the reference has no mutant gone\.remove\.0000 any more: remove its note",
        ),
        ("'@NAME@' = 'x → pass'", "@NAME@ must say @CHANGE@"),
        ("[other]", r"the tables are \[\[equivalent\]\] and \[\[missed\]\], not other"),
        ("=", "cannot be read: Invalid"),
    ],
)
def test_notes_that_do_not_fit_are_refused(tmp_path: Path, entry: str, message: str) -> None:
    entry = entry.replace("@NAME@", a_mutant().name)
    message = message.replace("@NAME@", re.escape(a_mutant().name)).replace(
        "@CHANGE@", re.escape(repr(a_mutant().change))
    )
    text = f"[[equivalent]]\nreason = 'Slower only.'\n[equivalent.mutants]\n{entry}\n"
    with pytest.raises(BadBank, match=rf"notes\.toml: .*{message}|notes\.toml {message}"):
        mutants.read_notes(write_notes(tmp_path, text), all_mutants())


def test_a_reference_that_is_not_python_is_an_error() -> None:
    with pytest.raises(BadBank, match=r"the reference is not valid Python: line 2: "):
        mutants.make("def f():\n  return (\n")


# --- which mutants and passes ---


def trial_of(mutant: Mutant, seeds: int = 2, net: bool = False) -> mutant_runs.MutantTrial:
    (trial,) = mutant_runs.make_trials([mutant], REFERENCE, Settings(seeds, seeds, 1), labs.LABS, net)
    return trial


def first(operator: str, lab: str) -> Mutant:
    return next(each for each in all_mutants() if (each.operator, each.lab) == (operator, lab))


def add_pass(trial: mutant_runs.MutantTrial, seed: int, test: str = "") -> None:
    caught = [Kill(test, "", "expected less")] if test else []
    trial.passes[seed] = Pass(trial.key, trial.name, seed, False, caught, [], 1.0, 1.0)


def test_which_mutants_are_chosen() -> None:
    equivalent = {a_mutant().name: "Slower only."}
    assert a_mutant() not in mutant_runs.choose(all_mutants(), equivalent)
    assert {each.operator for each in mutant_runs.choose(all_mutants(), [], "start.lock-s*")} == {
        "lock-split",
        "lock-short",
    }
    assert {each.function for each in mutant_runs.choose(all_mutants(), [], "_commit.")} == {
        "_advance_commit",
        "_commit",
    }
    drawn = mutant_runs.choose(all_mutants(), [], "", 5, 1)
    assert drawn == mutant_runs.choose(all_mutants(), [], "", 5, 1) != mutant_runs.choose(all_mutants(), [], "", 5, 2)
    assert len(drawn) == 5
    with pytest.raises(BadBank, match="apart from equivalent mutants, none has 'nothing' in its name"):
        mutant_runs.choose(all_mutants(), [], "nothing")


def test_a_mutant_begins_with_the_suite_of_its_lab(tmp_path: Path) -> None:
    parts = trial_of(first("remove", "2D")).parts(0, tmp_path)
    own_and_later = [("2D", "before-2E"), ("2E", "before-2F"), ("2F", "before-2G"), ("2G", "all")]
    earlier = [(lab, "before-2E") for lab in ("2A", "2B", "2C")]
    assert [(part.lab, part.path.name) for part in parts] == [*own_and_later, *earlier]
    last = trial_of(first("remove", "2G")).parts(0, tmp_path)
    assert {part.path.name for part in last} == {"all"}, "earlier labs are tested with the changed line, too"
    sources = [(part.path / "raft.py").read_text() for part in parts[:4]]
    assert ["# region 2E" in source for source in sources] == [False, True, True, True]
    assert ["# region 2F" in source for source in sources] == [False, False, True, True]
    assert ["# region 2G" in source for source in sources] == [False, False, False, True]


def test_no_passes_follow_a_kill() -> None:
    trial = trial_of(first("remove", "2A"))
    assert (trial.next_seed(), trial.complete) == (0, False)
    trial.started.add(0)
    assert trial.next_seed() is None, "the first pass may make the second unnecessary"
    add_pass(trial, 0)
    assert trial.next_seed() == 1
    add_pass(trial, 1, "split_vote")
    assert (trial.next_seed(), trial.complete, trial.kill and trial.kill.test) == (None, True, "split_vote")


def test_only_mutants_of_threads_run_on_the_real_network(tmp_path: Path) -> None:
    split, plain = trial_of(first("lock-split", "2A"), 1, net=True), trial_of(first("remove", "2A"), 1, net=True)
    assert list(plain.needed_seeds) == [0]
    assert list(split.needed_seeds) == [0, *mutant_runs.NET_SEEDS]
    (part,) = split.parts(mutant_runs.NET_SEEDS[0], tmp_path)
    assert (part.network, part.lab) == ("rpyc", "2A")


def test_tests_that_killed_a_mutant_of_the_same_function_come_first(tmp_path: Path) -> None:
    near = [each for each in all_mutants() if each.function == "request_vote" and each.lab == "2A"][:2]
    far = [each for each in all_mutants() if each.function == "_election_loop" and each.lab == "2A"][:2]
    trials = mutant_runs.make_trials([*near, *far], REFERENCE, Settings(1, 1, 1), ["2A"])
    add_pass(trials[1], 0, "late_vote")
    for trial in trials[2:]:
        add_pass(trial, 0, "split_vote")
    assert trials[0].parts(0, tmp_path)[0].tests[:2] == ["late_vote", "split_vote"]


# --- what is shown ---

FACTS = proof_page.Facts("today", "raftgrade proof --mutants", "these", Settings(1, 1, 1))


def test_the_table_and_the_section_of_the_page() -> None:
    killed, alive = trial_of(first("remove", "2A"), 1), trial_of(first("lock-split", "2B"), 1)
    add_pass(killed, 0, "split_vote")
    assert mutants_page.exit_code([killed, alive], Notes()) == 2
    add_pass(alive, 0)
    assert mutants_page.exit_code([killed, alive], Notes()) == 1
    notes = Notes({a_mutant().name: "It is slower only."}, {alive.name: "The moment is rare."})
    assert mutants_page.exit_code([killed, alive], notes) == 0
    words = f"{alive.name}, line {alive.mutant.line}: {alive.mutant.change}"
    printed = mutants_page.table([killed, alive], notes)
    assert f"\n\nsurvived 1 pass: {words}\n    The moment is rare.\n\n" in printed
    assert printed.endswith("1 of 2 mutants killed (50.0 %) · 1 more are equivalent · 2 passes · 2 s of CPU")
    text = mutants_page.section([killed, alive], notes, FACTS)
    assert f"\n- {words}: The moment is rare.\n" in text
    assert "\n| lock-split | the lock is released between two statements and taken again | 1 | 0 (0 %) |\n" in text
    assert f"\n- It is slower only. (`{a_mutant().name}`)\n" in text


def test_the_section_replaces_the_one_before() -> None:
    one, two = f"{mutants_page.HEADING}\n\none\n", f"{mutants_page.HEADING}\n\ntwo\n"
    page = mutants_page.with_section("# Proof\n\ntext\n", one)
    assert page == f"# Proof\n\ntext\n\n{one}"
    assert mutants_page.with_section(page, two) == f"# Proof\n\ntext\n\n{two}"
    between = f"{page}\n## After\n"
    assert mutants_page.with_section(between, two) == f"# Proof\n\ntext\n\n{two}\n## After\n"
    assert [mutants_page.section_of(each) for each in (page, between, "# Proof\n")] == [one, one, ""]


# --- real passes ---


def prove(folder: Path, *more: str) -> int:
    paths = [str(ROOT / "tests"), "--reference", str(SOLUTION), "--out", str(folder / "out")]
    return main(["proof", "--mutants", *paths, "--jobs", "1", *more])


SLICE = ["--only", ".remove", "--sample", "5", "--seed", "42", "--seeds", "3"]


@daily_sample.NOT_DAILY  # takes nine seconds
def test_a_few_random_mutants_are_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The suites kill a few mutants, which are drawn at random. ``raftgrade proof --mutants`` runs all mutants."""
    page = tmp_path / "page.md"
    page.write_text("# What the suites catch\n")
    assert prove(tmp_path, *SLICE, "--page", str(page)) == 0, capsys.readouterr().out
    assert re.search(r"^5 of 5 mutants killed \(100\.0 %\)", capsys.readouterr().out, re.M)
    text = page.read_text()
    assert text.startswith(f"# What the suites catch\n\n{mutants_page.HEADING}\n\nGenerated on ")
    assert "--seeds 3 --mutants --only .remove --sample 5 --seed 42 --page FILE" in " ".join(text.split())

    assert prove(tmp_path, *SLICE) == 0
    assert "raftgrade: reused 5 finished passes of the proof in " in capsys.readouterr().err


def test_a_mutant_that_survives_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mutant that survives makes the command fail, because the bank of this test has no note that explains it."""
    options = [
        "--reference",
        str(SOLUTION),
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
        "--labs",
        "2A",
        "--seeds",
        "1",
    ]
    pattern = "_others.function."  # this mutant asks the other servers in no particular order, which is correct
    assert main(["proof", str(tmp_path), "--mutants", "--only", pattern, *options]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^survived 1 pass: _others\.function\.\w+, line \d+: sorted → list$", printed, re.M)
    assert "\n\n0 of 1 mutant killed (0.0 %) · 0 more are equivalent · 1 pass · " in printed
