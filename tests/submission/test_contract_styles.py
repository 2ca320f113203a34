"""Tests that the contract check accepts correct submissions in unusual styles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raftlab import labs
from tests.submission.broken import (
    GOOD,
    HEAD,
    LAB_2A,
    LATER,
    MESSAGES,
    METHODS,
    SNAPSHOT_MESSAGES,
    VOTE,
    build,
    check,
    replaced,
)

WRAPPING = """
import functools


def locked(f):
    @functools.wraps(f)
    def inner(self, *args):
        return f(self, "the lock", *args)
    return inner
"""
SPLIT = {
    "msgs.py": HEAD + MESSAGES,
    "base.py": "class Base:\n    def get_state(self):\n        return 0, False\n",
    "core.py": (
        "from base import Base\nfrom msgs import *\n\n\nclass Raft(Base):\n"
        + METHODS.replace("def get_state", "def spare")
    ),
}
GENERIC = """
from typing import Generic, TypeVar
T = TypeVar("T")


@dataclass
class Signed(Generic[T]):
    term: int = 0
    note: T | None = None
"""
STYLES: dict[str, str | dict[str, str]] = {
    "without postponed annotations": GOOD.replace("from __future__ import annotations\n", ""),
    "parameter and class names of the student's own": replaced(
        "self, peers, me, persister, apply_ch, members", "this, ends, i, disk, out, who", "def start(self, command)",
        "def start(this, cmd)", "def request_vote(self, args:", "def request_vote(self, request:",
        "RequestVoteArgs", "Ballot",
    ),
    "class Raft(object)": replaced("class Raft:\n", "class Raft(object):\n"),
    "more parameters with defaults": replaced(
        "apply_ch, members)", "apply_ch, members, *, clock=None, debug=False)",
        "def start(self, command)", "def start(self, command, client=None, **options)",
    ),
    "*args in place of named parameters": replaced(
        "def start(self, command)", "def start(*args)", "self, peers, me, persister", "self, *rest"
    ).replace("*rest, apply_ch, members", "*rest"),
    "imported from a sibling": {"raft.py": "from core import Raft\n", **SPLIT},
    "imported under another name": {"raft.py": "from core import Raft as Impl\nRaft = Impl\n", **SPLIT},
    "star import": {"raft.py": "from core import *\n", **SPLIT},
    "a mixin and a base": {
        "raft.py": "import core\n\n\nclass Log:\n    pass\n\n\nclass Raft(Log, core.Raft):\n    pass\n", **SPLIT,
    },
    "message classes from a sibling": {
        "raft.py": f"from msgs import *\nimport msgs\n\n\nclass Raft:\n{METHODS}".replace(
            "args: AppendEntriesArgs", "args: msgs.AppendEntriesArgs"
        ),
        **SPLIT,
    },
    "a decorated handler": replaced(
        "\n\nclass Raft:", f"{WRAPPING}\n\nclass Raft:", VOTE,
        "    @locked\n    def request_vote(self, lock, args: RequestVoteArgs) -> RequestVoteReply:",
    ),
    "defined inside if and try": HEAD + MESSAGES + "\ntry:\n    pass\nfinally:\n    class Raft:\n" + "\n".join(
        f"    {row}" for row in METHODS.splitlines()
    ) + "\n",
    "methods added later": replaced("def get_state", "def spare") + (
        "\n\ndef get_state(self):\n    return 0, False\n\n\nRaft.get_state = get_state\n"
    ),
    "methods set by setattr": replaced("def get_state", "def spare") + (
        "\n\nfor name in ('get_state',):\n    setattr(Raft, name, lambda self: (0, False))\n"
    ),
    "methods assigned": replaced("def get_state(self)", "def spare(self)") + "\n    get_state = spare\n",
    "a handler under two names": replaced(VOTE, VOTE.replace("request_vote", "_vote")) + (
        "\n    request_vote = _vote\n"
    ),
    "static and class methods": replaced(
        "    def get_state(self)", "    @staticmethod\n    def get_state()",
        VOTE, VOTE.replace("    def", "    @classmethod\n    def").replace("self", "cls"),
    ),
    "a class decorator": replaced(
        "class Raft:", "def register(cls):\n    cls.get_state = cls.spare\n    return cls\n\n\n@register\nclass Raft:",
        "def get_state", "def spare",
    ),
    "a metaclass": replaced("class Raft:", "class Raft(metaclass=type):"),
    "a dataclass as Raft": GOOD.replace(
        "    def __init__(self, peers, me, persister, apply_ch, members):\n        pass\n",
        "    peers: list\n    me: int\n    persister: Any\n    apply_ch: Any\n    members: frozenset\n",
    ).replace("class Raft:", "@dataclass\nclass Raft:"),
    "messages inside Raft": HEAD + "\n\nclass Raft:\n" + "\n".join(
        f"    {row}" for row in MESSAGES.replace("list[LogEntry]", '"list[Raft.LogEntry]"').splitlines()
    ) + "\n\n" + METHODS,
    "frozen, slots, kw_only, inherited, generic": HEAD.replace("from __future__ import annotations\n", "") + GENERIC
    + MESSAGES.replace("@dataclass\n", "@dataclass(frozen=True, slots=True)\n").replace(
        "@dataclass(frozen=True, slots=True)\nclass AppendEntriesReply:\n    term: int\n    success: bool",
        "@dataclass(kw_only=True)\nclass AppendEntriesReply(Signed[str]):\n    success: bool",
    ) + f"\n\nclass Raft:\n{METHODS}",
    "optional results": replaced("-> RequestVoteReply:", "-> RequestVoteReply | None:"),
    "extra fields of many types": replaced(
        "    success: bool\n",
        "    success: bool\n    conflict: tuple[int, int] | None = None\n    seen: set[int] = field(default_factory=set)\n"
        "    more: dict[str, list[LogEntry]] = field(default_factory=dict)\n    self_: AppendEntriesReply | None = None\n"
        "    _private: Any = None\n    made: int = field(init=False, default=0)\n    o: object = None\n",
    ),
    "int keys": replaced("    success: bool\n", "    success: bool\n    next: dict[int, int] | None = None\n"),
    "aliases": replaced(
        "@dataclass\nclass LogEntry",
        "from typing import Annotated, List, NewType, Optional, Sequence, Union\nTerm = NewType('Term', int)\n"
        "Id = Annotated[int, 'server']\nCommand = Union[None, bool, int, float, str, list[Any], dict[str, Any]]\n"
        "\n\n@dataclass\nclass LogEntry",
        "    term: int", "    term: Term", "leader_id: int", "leader_id: Id", "candidate_id: int",
        "candidate_id: Optional[Id]", "list[LogEntry]", "Sequence['LogEntry']", "command: Any", "command: Command",
    ),
    "everything untyped": replaced("leader_commit: int", "leader_commit: Any", "success: bool", "success: object"),
    "a tuple of entries": replaced("list[LogEntry]", "tuple[LogEntry, ...]"),
    "an unfinished handler of a later lab": GOOD
    + "\n    def install_snapshot(self, args):\n        raise NotImplementedError\n",
    "an undefined type on an extra parameter": replaced(
        VOTE, "    def request_vote(self, args: RequestVoteArgs, trace: Trace = None) -> RequestVoteReply:"
    ),
    "one class for two handlers": GOOD + LATER + SNAPSHOT_MESSAGES,
    "a callable object": replaced(
        "\n\nclass Raft:", "\n\nclass Answer:\n    def __call__(self):\n        return 0, False\n\n\nclass Raft:",
        "    def get_state", "    get_state = Answer()\n\n    def spare",
    ),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_a_correct_submission_in_an_unusual_style_is_accepted(tmp_path: Path, style: str) -> None:
    lab = labs.find("2D") if style == "one class for two handlers" else LAB_2A
    assert check(build(tmp_path, STYLES[style]), lab) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new syntax of Python 3.12")
def test_type_aliases_of_python_3_12_are_accepted(tmp_path: Path) -> None:
    text = replaced("@dataclass\nclass LogEntry", "type Term = int\n\n\n@dataclass\nclass LogEntry")
    assert check(build(tmp_path / "a", text.replace("    term: int", "    term: Term"))) == []
    text = replaced("@dataclass\nclass LogEntry", "type JSON = int | list[JSON]\n\n\n@dataclass\nclass LogEntry")
    (problem,) = check(build(tmp_path / "b", text.replace("command: Any", "command: JSON")))
    assert "a type alias that contains itself" in problem.text
