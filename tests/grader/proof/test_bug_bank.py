"""Tests of the bank of known bugs: reading and applying patch files, and applying each file of our own bank."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from raftgrade.proof import bug_bank
from raftgrade.proof.bug_bank import BadBank, Catch
from raftlab import labs
from raftlab.explain import rules
from raftlab.explain.failure import Failure
from tests.conftest import ROOT
from tests.counts import ALL_LABS
from tests.known_bugs import BANK
from tests.known_bugs import REFERENCE as SOLUTIONS

HEADERS = """Title: It counts too far.
Lab: 2A
Breaks: Election Safety
Hardness: easy
Source: our own variants
Caught-by: initial_election
Rule: liveness of elections
"""
SERVICE_HEADERS = """Title: It counts too far.
Lab: 3A
Breaks: Exactly once
Hardness: easy
Source: our own variants
Caught-by: one_clerk
Rule: linearizability
"""
HUNK = """@@ -1,3 +1,3 @@ def f
 def f():
-    return 1
+    return 2

"""
REFERENCE = "# A file.\ndef f():\n    return 1\n\ndef g():\n    return 1\n"
PATCH = Path("bank/2a/too-far.patch")


def apply_hunks(hunks: str, reference: str = REFERENCE) -> str:
    """The reference with the hunks applied."""
    return bug_bank.parse(f"{HEADERS}\n{hunks}", PATCH).apply_to({"raft.py": reference})["raft.py"]


def test_headers_and_hunks_are_parsed() -> None:
    bug = bug_bank.parse(f"{HEADERS}\n{HUNK}", PATCH)
    assert (bug.id, bug.lab, bug.breaks, bug.hardness) == ("2a/too-far", "2A", "Election Safety", "easy")
    assert (bug.catches, bug.seeds, bug.before, bug.missed) == (
        (Catch("initial_election", rule="liveness of elections"),),
        3,
        "",
        "",
    )
    assert bug.apply_to({"raft.py": REFERENCE, "kv.py": "x = 1\n"}) == {"raft.py": REFERENCE.replace("1", "2", 1)}


def test_line_numbers_of_hunks_are_ignored() -> None:
    assert apply_hunks(HUNK.replace("-1,3 +1,3", "-700,9 +1,1")) == REFERENCE.replace("1", "2", 1)
    assert apply_hunks(HUNK.replace("@@ -1,3 +1,3 @@ def f", "@@")) == REFERENCE.replace("1", "2", 1)
    grown = "import os\n\n" + REFERENCE + "\ndef h():\n    return 3\n"
    assert apply_hunks(HUNK, grown) == grown.replace("1", "2", 1)


def test_hunks_can_come_in_any_order() -> None:
    second = "@@\n def g():\n-    return 1\n+    return 3\n"
    both = REFERENCE.replace("1", "2", 1).replace("1", "3", 1)
    assert apply_hunks(HUNK + second) == apply_hunks(second + HUNK) == both


def test_empty_lines_between_hunks_are_ignored() -> None:
    assert apply_hunks(f"--- a/raft.py\n+++ b/raft.py\n{HUNK}\n\n") == REFERENCE.replace("1", "2", 1)


def test_a_bug_can_change_several_files() -> None:
    hunks = f"{HUNK}--- solutions/kv.py\t2026-01-01 00:00\n+++ solutions/kv.py\t2026-01-02 00:00\n@@\n-x = 1\n+x = 2\n"
    bug = bug_bank.parse(f"{SERVICE_HEADERS}\n{hunks}", PATCH)
    changed = {"raft.py": REFERENCE.replace("1", "2", 1), "kv.py": "x = 2\n"}
    assert bug.apply_to({"kv.py": "x = 1\n", "raft.py": REFERENCE}) == changed
    with pytest.raises(BadBank, match="3a/too-far: the reference has no kv"):
        bug.apply_to({"raft.py": REFERENCE})
    with pytest.raises(BadBank, match=r":15: a bug of lab 3A can change raft.py and kv.py, not 'api.py'"):
        bug_bank.parse(f"{SERVICE_HEADERS}\n{hunks.replace('kv.py', 'api.py')}", PATCH)
    with pytest.raises(BadBank, match=r"a bug of lab 2A can change raft.py, not 'kv.py'"):
        bug_bank.parse(f"{HEADERS}\n{hunks}", PATCH)


def test_the_labs_before_a_service_can_be_removed() -> None:
    """``Before: 2E`` removes labs 2E and later from raft.py, even for a bug of lab 3A, but never the bug's own lab."""
    service = "# region 3A: a service\nx = 1\n# endregion\n# region 3B: reads\ny = 1\n# endregion\n"
    bug = bug_bank.parse(f"{SERVICE_HEADERS}Before: 2E\n\n{HUNK}", PATCH)
    changed = bug.apply_to({"raft.py": f"{REFERENCE}# region 2E: members\nz = 1\n# endregion\n", "kv.py": service})
    assert changed == {"raft.py": REFERENCE.replace("1", "2", 1), "kv.py": service.partition("# region 3B")[0]}


@pytest.mark.parametrize(
    ("hunks", "times"),
    [("@@\n-    return 1\n+    return 2\n", "2 times"), ("@@\n def f():\n-    return 7\n+    return 2\n", "0 times")],
)
def test_old_lines_must_occur_once(hunks: str, times: str) -> None:
    with pytest.raises(BadBank) as error:
        apply_hunks(HUNK + hunks)
    assert str(error.value) == (
        f"2a/too-far: the old lines of hunk 2 (bank/2a/too-far.patch:14) occur {times} in the reference, "
        "expected exactly once"
    )


def test_overlapping_hunks_are_rejected() -> None:
    with pytest.raises(BadBank, match="2a/too-far: hunks 1 and 2 change the same lines of the reference"):
        apply_hunks("@@\n # A file.\n def f():\n-    return 1\n@@\n     return 1\n \n-def g():\n+def h():\n")


def test_a_bug_can_name_several_tests() -> None:
    headers = HEADERS + "Caught-by: split_vote\nKind: deadlock\nSeeds: 7\nBefore: 2e\n"
    bug = bug_bank.parse(f"{headers}\n{HUNK}", PATCH)
    assert bug.catches[1:] == (Catch("split_vote", kind="deadlock"),)
    assert (bug.seeds, bug.before) == (7, "2E")


def test_a_missed_bug_names_no_test() -> None:
    headers = HEADERS.partition("Caught-by")[0] + "Missed: needs a clock that goes backwards.\n"
    assert bug_bank.parse(f"{headers}\n{HUNK}", PATCH).missed == "needs a clock that goes backwards."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: expected an empty line after the headers, and then the change"),
        (HEADERS, "7: expected an empty line after the headers, and then the change"),
        (HEADERS + "\n", "7: expected an empty line after the headers, and then the change"),
        (HEADERS + "\n--- raft.py\n", "9: there is no hunk, so nothing would change"),
        ("Hello\n\n" + HUNK, "1: expected a header such as `Lab: 2A`, not 'Hello'"),
        ("Title:\n\n" + HUNK, "1: expected a header such as `Lab: 2A`, not 'Title:'"),
        (HEADERS.replace("Breaks: Election Safety\n", "") + "\n" + HUNK, "7: these headers are missing: Breaks"),
        (HEADERS + "Lab: 2B\n\n" + HUNK, "8: Lab occurs twice"),
        (
            HEADERS.replace("Hardness: easy", "Hardness: tough") + "\n" + HUNK,
            "4: Hardness must be easy, medium or hard, not 'tough'",
        ),
        (
            HEADERS.replace("2A", "9Z") + "\n" + HUNK,
            f"2: there is no lab '9Z'; the labs are: {ALL_LABS}",
        ),
        (HEADERS + "Before: never\n\n" + HUNK, f"8: there is no lab 'never'; the labs are: {ALL_LABS}"),
        (HEADERS + "Seeds: few\n\n" + HUNK, "8: Seeds must be a number from 1 to 9999, not 'few'"),
        (HEADERS.replace("initial", "final") + "\n" + HUNK, "6: lab 2A has no test called 'final_election'"),
        (HEADERS.partition("Rule")[0] + "\n" + HUNK, "7: each Caught-by must be followed by its own Rule or Kind"),
        ("Rule: what\n\n" + HUNK, "1: each Caught-by must be followed by its own Rule or Kind"),
        (
            HEADERS.replace("of elections", "of servers") + "\n" + HUNK,
            "7: no failure names a rule called 'liveness of servers'",
        ),
        (
            HEADERS.partition("Caught-by")[0] + "\n" + HUNK,
            "6: Caught-by must name a test that catches the bug, or Missed must say why no test catches it",
        ),
        (HEADERS + "\nhello\n" + HUNK, "9: expected a hunk, which begins with @@, not 'hello'"),
        (
            HEADERS + "\n" + HUNK + "hello\n",
            "14: the lines of a hunk begin with a space, - or +, but this one is 'hello'",
        ),
        (HEADERS + "\n@@\n def f():\n", "9: this hunk changes nothing"),
        (HEADERS + "\n@@\n+x = 1\n", "9: this hunk has no old line, so its place cannot be found: add context lines"),
    ],
)
def test_malformed_files_are_rejected(text: str, message: str) -> None:
    with pytest.raises(BadBank) as error:
        bug_bank.parse(text, PATCH)
    assert str(error.value) == f"bank/2a/too-far.patch:{message}"


def test_an_unknown_header_is_rejected() -> None:
    with pytest.raises(BadBank, match="8: unknown header Author; the headers are Title, Lab, "):
        bug_bank.parse(f"{HEADERS}Author: me\n\n{HUNK}", PATCH)


def test_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(BadBank, match=r"7: Kind must be one of assertion, exception, .*, not 'invariant'"):
        bug_bank.parse(HEADERS.replace("Rule: liveness of elections", "Kind: invariant") + "\n" + HUNK, PATCH)


def test_a_catch_matches_the_expected_failure_only() -> None:
    broken_rule = Failure("invariant", "expected one vote", rules.ONE_VOTE)
    deadlock = Failure("deadlock", "S0: deadlock")
    for failure, other in ((broken_rule, deadlock), (deadlock, broken_rule)):
        catch = Catch("split_vote", failure.rule.name) if failure.rule else Catch("split_vote", kind=failure.kind)
        assert (catch.matches(failure), catch.matches(other)) == (True, False)
    assert not Catch("split_vote", rules.ONE_VOTE.name).matches(Failure("assertion", "", rules.MAJORITY))
    assert not Catch("split_vote", kind="deadlock").matches(Failure("deadlock", "", rules.ONE_VOTE))


def test_reading_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadBank, match="is not a folder; a bank is a folder with one"):
        bug_bank.read(tmp_path / "none")
    with pytest.raises(BadBank, match=r"contains no .*, so there are no bugs to try"):
        bug_bank.read(tmp_path)
    for name in ("b/one.patch", "a/two.patch"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"{HEADERS}\n{HUNK}")
    (tmp_path / "left-out.md").write_text("- `three`: is none.\n")
    bank = bug_bank.read(tmp_path)
    assert ([bug.id for bug in bank.bugs], bank.left_out) == (["2a/one", "2a/two"], "- `three`: is none.")
    assert [bug.name for bug in bug_bank.choose(bank, ["2A"], ["2a/two"])] == ["two"]
    with pytest.raises(BadBank, match="no bug called 'four'"):
        bug_bank.choose(bank, ["2A"], ["four"])
    with pytest.raises(BadBank, match="none of these bugs for 2B"):
        bug_bank.choose(bank, ["2B"], [])
    (tmp_path / "one.patch").write_text(f"{HEADERS}\n{HUNK}")
    with pytest.raises(BadBank, match=re.escape("one.patch: 2a/one is already defined in ")):
        bug_bank.read(tmp_path)
    (tmp_path / "one.patch").write_bytes(b"\xff\xfe")
    with pytest.raises(BadBank, match="is not text in UTF-8"):
        bug_bank.read(tmp_path)


# --- our own bank ---


@pytest.mark.parametrize("lab", labs.LABS)
def test_every_bug_of_the_lab_can_be_applied(lab: str) -> None:
    texts: dict[tuple[str, ...], str] = {}
    without_labs_from = cache(bug_bank.without_labs_from)
    for bug in BANK.of(lab):
        sources = bug.apply_to(SOLUTIONS)
        without = {name: without_labs_from(bug.before, SOLUTIONS[name], bug.lab) for name in sources}
        assert sources != without
        for name, source in sources.items():
            if source != without[name]:
                compile(source, bug.id, "exec")
        text = tuple(sources.values())
        assert text not in texts, f"{bug.id} and {texts[text]} are the same change: name both tests in one file"
        texts[text] = bug.id
        assert bug.path.parent == ROOT / "tests" / "bugs" / lab.lower()
        assert bug.title.endswith(".")
    assert len(texts) >= 15


def test_the_bank_is_large_enough() -> None:
    assert len(BANK.bugs) >= 80
    left_out = re.findall(r"^- `(\S+)`: ", BANK.left_out, re.M)
    assert len(left_out) >= 9
    assert not {bug.name for bug in BANK.bugs} & set(left_out)


def test_the_example_in_the_readme_can_be_applied() -> None:
    text = (ROOT / "tests" / "bugs" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```\n(Title: .*?)^```$", text, re.M | re.S)
    shown, ours = bug_bank.parse(example, PATCH), BANK.find("2C", "ps-vote-not-saved")
    assert shown.apply_to(SOLUTIONS) == ours.apply_to(SOLUTIONS)
    assert (shown.title, shown.catches[0].test) == (ours.title, ours.catches[0].test)
    for header in (*bug_bank.HEADERS, *bug_bank.CATCH_HEADERS):
        assert f"\n| `{header}` |" in text
