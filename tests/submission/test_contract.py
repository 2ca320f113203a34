"""The contract check: broken submissions, and the words they get (pinned)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from raftlab.labs import LABS, Lab
from raftlab.messages.protocol import Problem
from raftlab.submission import contract, source

LAB_2A = LABS["2A"]
ALL = Lab(
    "2F",
    "everything",
    "",
    (
        "start", "get_state", "request_vote", "append_entries", "snapshot", "install_snapshot",
        "change_membership", "pre_vote",
    ),
    "",
)  # fmt: skip

MESSAGES = """\
@dataclass
class LogEntry:
    term: int
    command: Any = None


@dataclass
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int


@dataclass
class RequestVoteReply:
    term: int
    vote_granted: bool


@dataclass
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[LogEntry]
    leader_commit: int


@dataclass
class AppendEntriesReply:
    term: int
    success: bool
"""
HEAD = "from __future__ import annotations\nimport threading\nfrom dataclasses import dataclass, field\n"
HEAD += "from typing import Any\n"
METHODS = """\
    def __init__(self, peers, me, persister, apply_ch, members):
        pass

    def start(self, command):
        return 0, 0, False

    def get_state(self):
        return 0, False

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return RequestVoteReply(0, False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        return AppendEntriesReply(0, False)
"""
GOOD = f"{HEAD}\n{MESSAGES}\n\nclass Raft:\n{METHODS}"
LATER = """
    def snapshot(self, index, data): ...
    def change_membership(self, members): ...
    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply: ...
    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply: ...
"""
SNAPSHOT_MESSAGES = """
@dataclass
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool


@dataclass
class InstallSnapshotReply:
    term: int
"""


def build(root: Path, files: dict[str, str]) -> source.Submission:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return source.find(root)


def judge(root: Path, files: dict[str, str] | str, lab: Lab = LAB_2A) -> list[tuple[str, str, str]]:
    """What the host does: read, import, look. Problems as tuples."""
    submission = build(root, {"raft.py": files} if isinstance(files, str) else files)
    problems = contract.check_source(submission, lab)
    if not problems:
        problems = imported(submission, lab)
    return [(problem.text, problem.where, problem.handout) for problem in problems]


def imported(submission: source.Submission, lab: Lab) -> list[Problem]:
    importlib.invalidate_caches()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(submission.root))
    try:
        try:
            module: Any = importlib.import_module(submission.name)
        except BaseException as exc:
            return [contract.explain_import_error(exc, submission)]
        return contract.check_module(module, lab, submission)
    finally:
        sys.path.remove(str(submission.root))
        sys.dont_write_bytecode = writes
        for name in submission.modules:
            sys.modules.pop(name, None)


def line(text: str, part: str) -> str:
    """``raft.py:N`` for the first line of ``text`` with ``part`` in it."""
    number = next(number for number, item in enumerate(text.splitlines(), 1) if part in item)
    return f"raft.py:{number}"


def replaced(*pairs: str) -> str:
    text = GOOD
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


def test_the_good_one_is_good(tmp_path: Path) -> None:
    assert judge(tmp_path, GOOD) == []


def test_the_later_labs(tmp_path: Path) -> None:
    text = GOOD + LATER + SNAPSHOT_MESSAGES
    voters = "    members: list[int] | None = None\n    old_members: list[int] | None = None\n"
    whole = text.replace("    command: Any = None\n", f"    command: Any = None\n    kind: str = 'command'\n{voters}")
    assert judge(tmp_path / "a", whole.replace("    done: bool\n", f"    done: bool\n{voters}"), ALL) == []
    assert [problem[0] for problem in judge(tmp_path / "c", whole, ALL)] == [
        "InstallSnapshotArgs has no field members, in which lab 2F tells who votes: take it from the skeleton",
        "InstallSnapshotArgs has no field old_members, in which lab 2F tells who votes: take it from the skeleton",
    ]
    assert judge(tmp_path / "d", text, ALL)[0][0] == (
        "LogEntry has no field kind, in which lab 2F tells who votes: take it from the skeleton"
    )
    problems = judge(tmp_path / "b", GOOD, ALL)
    assert [problem[0] for problem in problems] == [
        "Raft has no method snapshot(self, index, data), which lab 2F needs",
        "Raft has no method install_snapshot(self, args), which lab 2F needs",
        "Raft has no method change_membership(self, members), which lab 2F needs",
        "Raft has no method pre_vote(self, args), which lab 2F needs",
    ]


# --- stage one ------------------------------------------------------------------------------------------------

VOTE = "    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:"
APPEND = "    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:"


@pytest.mark.parametrize(
    ("text", "said", "at"),
    [
        (
            "class Raft:\n    def start(self)\n        pass\n",
            "raft.py is not valid Python: expected ':', in the line: def start(self)",
            "raft.py:2",
        ),
        (
            "x = 1\nreturn x\n",
            "raft.py is not valid Python: 'return' outside function, in the line: return x",
            "raft.py:2",
        ),
    ],
)
def test_syntax_errors(tmp_path: Path, text: str, said: str, at: str) -> None:
    assert judge(tmp_path, text) == [(said, at, contract.FIRST_RUN)]


def test_source_beyond_reason(tmp_path: Path) -> None:
    (text, _, handout), *more = judge(tmp_path, "x = " + "-" * 100_000 + "1\n")
    assert "too" in text
    assert "nested" in text
    assert (handout, more) == (contract.FIRST_RUN, [])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"raft.py": ""}, "raft.py has no class Raft"),
        (
            {"raft.py": "class Node: pass\nclass Log: pass\n"},
            "raft.py has no class Raft, only Node, Log: the tests look for the name Raft",
        ),
        (
            {"raft.py": "class Log: pass\nclass RaftNode: pass\n"},
            "raft.py has no class Raft, but one named RaftNode: rename it Raft",
        ),
        (
            {"raft.py": "import core\n", "core.py": "class Raft: pass\n"},
            "raft.py has no class Raft, but core.py has one: add `from core import Raft`",
        ),
    ],
)
def test_no_class_raft(tmp_path: Path, files: dict[str, str], said: str) -> None:
    assert judge(tmp_path, files) == [(said, "raft.py:1", contract.API)]


def test_no_class_raft_after_all(tmp_path: Path) -> None:
    said = "raft.py has no class Raft, only Node: the tests look for the name Raft"
    text = "class Node: pass\nif Node is None:\n    Raft = Node\n"
    assert judge(tmp_path / "a", text) == [(said, "raft.py:1", contract.API)]
    said = "Raft in raft.py is not a class (it is of type function)"
    assert judge(tmp_path / "b", "def Raft(*args): pass\n") == [(said, "raft.py:1", contract.API)]


METHOD_FAULTS = [
    (
        replaced("def get_state(", "def state("),
        "Raft has no method get_state(self), which lab 2A needs",
        "class Raft:",
    ),
    (
        replaced("def __init__(", "def init("),
        "Raft has no method __init__(self, peers, me, persister, apply_ch, members), which lab 2A needs",
        "class Raft:",
    ),
    (
        replaced("def __init__(self, peers, me, persister, apply_ch, members)", "def __init__(self, peers, me)"),
        "Raft.__init__ must take (self, peers, me, persister, apply_ch, members), but is declared (self, peers, me)",
        "def __init__",
    ),
    (
        replaced("def start(self, command)", "def start(self)"),
        "Raft.start must take (self, command), but is declared (self)",
        "def start",
    ),
    (
        replaced("def start(self, command)", "def start(self, command, client, *rest, n=1)"),
        "Raft.start must take (self, command), but is declared (self, command, client, *rest, n=1)",
        "def start",
    ),
    (
        replaced("def get_state(self)", "def get_state()"),
        "Raft.get_state must take (self), but is declared ()",
        "def get_state",
    ),
    (
        replaced("def start(self, command)", "def start(self, command, *, client)"),
        "Raft.start must take (self, command), but is declared (self, command, *, client)",
        "def start",
    ),
    (
        replaced(VOTE, VOTE.replace("    def", "    async def")),
        "Raft.request_vote is async; the labs use threads: write it with plain def",
        "def request_vote",
    ),
    (
        GOOD + "\n    def status(self, verbose):\n        pass\n",
        "Raft.status must take (self), but is declared (self, verbose)",
        "def status",
    ),
]


@pytest.mark.parametrize(("text", "said", "at"), METHOD_FAULTS)
@pytest.mark.parametrize("stage", ["source", "class"])
def test_methods(tmp_path: Path, stage: str, text: str, said: str, at: str) -> None:
    """Both stages find the same and say it in the same words, also of inherited methods."""
    if stage == "class":
        text = text.replace("class Raft:", "class Base:") + "\n\nclass Raft(Base):\n    pass\n"
        at = at.replace("class Raft:", "class Raft(Base)")
        assert contract.check_source(build(tmp_path, {"raft.py": text}), LAB_2A) == []
    assert judge(tmp_path, text) == [(said, line(text, at), contract.API)]


@pytest.mark.parametrize(
    ("text", "said", "at"),
    [
        (
            replaced("return 0, 0, False", "yield 0, 0, False"),
            "Raft.start has a yield in it, so calling it runs nothing: return the answer instead",
            "def start",
        ),
        (
            replaced("    def get_state", "    @property\n    def get_state"),
            "Raft.get_state is a property; the tests call it: remove @property",
            "def get_state",
        ),
        (
            replaced("    def get_state", "    def state").replace("class Raft:", "class Raft:\n    get_state = 3\n"),
            "Raft.get_state is not a method but an int",
            "class Raft:",
        ),
    ],
)
def test_methods_that_only_the_class_shows(tmp_path: Path, text: str, said: str, at: str) -> None:
    assert judge(tmp_path, text) == [(said, line(text, at), contract.API)]


# --- messages -------------------------------------------------------------------------------------------------

BARE_DECORATOR = """
def logged(f):
    def inner(self, *args: Any) -> Any:
        return f(self, *args)
    return inner
"""


@pytest.mark.parametrize(
    ("text", "said", "at"),
    [
        (
            replaced("def request_vote(self, args: RequestVoteArgs)", "def request_vote(self, args)"),
            "Raft.request_vote must say which dataclass it takes, as in `args: RequestVoteArgs`",
            "def request_vote",
        ),
        (
            replaced(APPEND, "    def append_entries(self, a: AppendEntriesArgs):"),
            "Raft.append_entries must say which dataclass it returns, as in `-> AppendEntriesReply`",
            "def append_entries",
        ),
        (
            replaced(VOTE, "    def request_vote(self, args: dict) -> RequestVoteReply:"),
            "Raft.request_vote takes dict, which is not a dataclass; messages are dataclasses",
            "def request_vote",
        ),
        (
            replaced(VOTE, "    def request_vote(self, args: RequestVoteArgs) -> tuple[int, bool]:"),
            "Raft.request_vote returns tuple[int, bool], which is not a dataclass; messages are dataclasses",
            "def request_vote",
        ),
        (
            replaced("@dataclass\nclass RequestVoteReply", "class RequestVoteReply"),
            "Raft.request_vote returns RequestVoteReply, which is not a dataclass; messages are dataclasses",
            "def request_vote",
        ),
        (
            replaced(VOTE, "    def request_vote(self, args: VoteArgs) -> RequestVoteReply:"),
            "the annotations of Raft.request_vote cannot be read: VoteArgs is not defined "
            "(import it for running too, not only for type checkers)",
            "def request_vote",
        ),
        (
            replaced(VOTE, f"    @logged\n{VOTE}", "\n\nclass Raft:", f"{BARE_DECORATOR}\n\nclass Raft:"),
            "the decorator on Raft.request_vote hides its annotations; "
            "put @functools.wraps(f) on its inner function",
            "def request_vote",
        ),
        (
            replaced("    last_log_term: int\n", "    last_log_term: int\n    lock: threading.Lock = None\n"),
            "RequestVoteArgs.lock: threading.Lock cannot travel by value",
            "lock: threading.Lock",
        ),
        (
            replaced("    last_log_term: int\n", "    last_log_term: int\n    done: list[threading.Event] = None\n"),
            "RequestVoteArgs.done: threading.Event cannot travel by value",
            "done: list",
        ),
        (
            replaced(
                "    last_log_term: int\n", "    last_log_term: int\n    at: datetime = None\n",
                "import threading\n", "import threading\nfrom datetime import datetime\n",
            ),
            "RequestVoteArgs.at: datetime.datetime cannot travel by value",
            "at: datetime",
        ),
        (
            replaced("    last_log_term: int\n", "    last_log_term: int\n    more: [int] = None\n"),
            "RequestVoteArgs.more: its annotation [<class 'int'>] is not a type; a list is written list[...]",
            "more: [int]",
        ),
        (
            replaced("    last_log_term: int\n", "    last_log_term: int\n    peer: Peer = None\n"),
            "the annotations of RequestVoteArgs cannot be read: Peer is not defined",
            "class RequestVoteArgs",
        ),
        (
            replaced("    command: Any = None\n", "    command: Any = None\n    by: Raft | None = None\n"),
            "LogEntry.by: Raft cannot travel by value",
            "by: Raft",
        ),
        (
            replaced("    success: bool\n", "    success: bool\n    next: dict[tuple[int, int], int] = None\n"),
            "AppendEntriesReply.next: keys of dicts that travel are str or int",
            "next: dict",
        ),
        (
            replaced("    success: bool\n", "    success: bool\n    n: dict[int, int] = None\n    s: set[int] = None\n"),
            "AppendEntriesReply has a set and a dict with int keys; make one of them a list",
            "class AppendEntriesReply",
        ),
        (
            replaced("    success: bool\n", "    success: bool\n    x: list[int] | tuple[int, int] = None\n"),
            "AppendEntriesReply.x is declared list[int] | tuple[int, int], "
            "whose alternatives cannot be told apart in a message; declare it as Any",
            "x: list[int]",
        ),
        (
            replaced("    command: Any", "    command: list[int | str | bytes]"),
            "LogEntry.command is declared list[int | str | bytes], "
            "whose alternatives cannot be told apart in a message; declare it as Any",
            "command: list",
        ),
        (
            replaced(
                "    command: Any", "    command: JSON", "@dataclass\nclass LogEntry",
                'JSON = int | str | list["JSON"]\n\n\n@dataclass\nclass LogEntry',
            ),
            "LogEntry.command: a type alias that contains itself cannot be followed; declare the field as Any",
            "command: JSON",
        ),
        (
            replaced("    last_log_term: int\n", ""),
            "RequestVoteArgs has no field last_log_term: the tests use the paper's names in snake_case",
            "class RequestVoteArgs",
        ),
        (
            replaced("    vote_granted: bool\n", "    voteGranted: bool\n"),
            "RequestVoteReply has no field vote_granted: rename its field voteGranted",
            "class RequestVoteReply",
        ),
        (
            replaced("    success: bool\n", "    success: bool\n    conflict_index: int\n"),
            "AppendEntriesReply.conflict_index needs a default value, so that the tests can leave it out",
            "conflict_index: int",
        ),
        (
            replaced("class LogEntry:\n", "class LogEntry:\n    index: int\n"),
            "LogEntry.index needs a default value, so that the tests can leave it out",
            "index: int",
        ),
        (
            replaced("    candidate_id: int\n", "    candidate_id: str\n"),
            "RequestVoteArgs.candidate_id is declared str; it must be int",
            "candidate_id: str",
        ),
        (
            replaced("    success: bool\n", "    success: int\n"),
            "AppendEntriesReply.success is declared int; it must be bool",
            "success: int",
        ),
        (
            replaced("list[LogEntry]", "list"),
            "AppendEntriesArgs.entries is declared list; it must be a list of a dataclass, as in list[LogEntry]",
            "entries: list",
        ),
        (
            replaced("list[LogEntry]", "list[LogEntry] | None"),
            "AppendEntriesArgs.entries is declared list[LogEntry] | None; "
            "it must be a list of a dataclass, as in list[LogEntry]",
            "entries: list",
        ),
        (
            replaced("list[LogEntry]", "list[tuple[int, Any]]"),
            "AppendEntriesArgs.entries is declared list[tuple[int, Any]]; "
            "it must be a list of a dataclass, as in list[LogEntry]",
            "entries: list",
        ),
        (
            replaced("    command: Any", "    command: str"),
            "LogEntry.command is declared str; commands are any JSON-like values: use Any",
            "command: str",
        ),
        (
            replaced("    command: Any", "    cmd: Any"),
            "LogEntry has no field command: the tests use the paper's names in snake_case",
            "class LogEntry",
        ),
    ],
)  # fmt: skip
def test_messages(tmp_path: Path, text: str, said: str, at: str) -> None:
    assert judge(tmp_path, text) == [(said, line(text, at), contract.MESSAGES)]


def test_a_message_in_another_file_is_pointed_at_there(tmp_path: Path) -> None:
    messages = MESSAGES.replace("    success: bool\n", "    success: bool\n    hint: int\n")
    files = {
        "raft.py": f"from msgs.wire import *\n\n\nclass Raft:\n{METHODS}",
        "msgs/__init__.py": "",
        "msgs/wire.py": HEAD + messages,
    }
    where = line(files["msgs/wire.py"], "hint: int").replace("raft.py", "msgs/wire.py")
    said = "AppendEntriesReply.hint needs a default value, so that the tests can leave it out"
    assert judge(tmp_path, files) == [(said, where, contract.MESSAGES)]


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = replaced("    success: bool\n", "", "    candidate_id: int\n", "", "args: AppendEntriesArgs", "args")
    assert [problem[0] for problem in judge(tmp_path, text)] == [
        "RequestVoteArgs has no field candidate_id: the tests use the paper's names in snake_case",
        "Raft.append_entries must say which dataclass it takes, as in `args: AppendEntriesArgs`",
    ]
