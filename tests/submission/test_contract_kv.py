"""Tests of the contract check of kv.py, the file of lab 3A: each mistake is named with its file and line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftlab.messages.protocol import Problem
from raftlab.tools.check import check
from tests.conftest import SOLUTION


def problems(folder: Path, *pairs: str) -> list[Problem]:
    """The problems that the check finds in the reference with these replacements in kv.py: old text, new text, ..."""
    shutil.copytree(SOLUTION.parent, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    kv = folder / "kv.py"
    text = kv.read_text()
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    kv.write_text(text)
    return check(folder, ["3A"])


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ((), ""),
        (
            ("class KVServer", "class KvServer"),
            "kv.py has no class KVServer, but one named KvServer: rename it KVServer",
        ),
        (("class Clerk", "class Client"), "kv.py has no class Clerk, "),
        (
            ("def swap(self, key: str, ", "def cas(self, key: str, "),
            "Clerk has no method swap(self, key, expected, value)",
        ),
        (
            ('def get(self, key: str, read: str = "log")', "def get(self)"),
            "Clerk.get must take (self, key), but is declared (self)",
        ),
        (("    serial: int\n", ""), "ClientRequest has no field serial: the tests use the names in the skeleton"),
        (("    serial: int\n", "    serial: str\n"), "ClientRequest.serial is declared str; it must be int"),
        (
            ("import json\n", "import json\n\nimport raft  # noqa\n"),
            "kv.py imports raft, but a service is given its Raft",
        ),
        (("class Clerk", "x = 1 +\n\nclass Clerk"), "kv.py is not valid Python"),
    ],
)
def test_mistakes_in_kv_are_named(tmp_path: Path, pairs: tuple[str, ...], says: str) -> None:
    found = problems(tmp_path, *pairs)
    if not says:
        assert found == []
        return
    assert says in found[0].text, found
    assert found[0].handout.startswith(("handouts/lab-3a", "handouts/setup.md#first-run"))


def test_a_submission_without_kv_is_complete_for_lab_2(tmp_path: Path) -> None:
    problems(tmp_path)
    (tmp_path / "kv.py").unlink()
    assert check(tmp_path, ["2A", "2F"]) == []
    assert check(tmp_path, ["2A", "3A"]) == []
    (problem,) = check(tmp_path, ["3A"])
    assert problem.text == "there is no kv.py beside raft.py, which lab 3A needs"
